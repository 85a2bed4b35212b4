mod fair;
mod machine;
mod threads;
