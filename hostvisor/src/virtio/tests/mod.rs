//! Queues and registers against drivers that keep the rules, and drivers that do not.

mod blk;
mod console;
mod net;
mod queue;
mod registers;
