//! Queues and registers against drivers that keep the rules, and drivers that do not.

mod blk;
mod net;
mod queue;
mod registers;
