//! `ycsb PORT load` and `ycsb PORT run OPERATIONS CONNECTIONS SEED`: workload A of YCSB against whatever speaks
//! MongoDB's wire protocol on that port of 127.0.0.1.
//!
//! YCSB's defaults: 1000 records of ten fields of 100 bytes; half of the operations read a record, half set one field;
//! which record, says a scrambled Zipfian distribution (Cooper et al., Benchmarking Cloud Serving Systems with YCSB,
//! SoCC 2010). Each connection is a process. Keys, values and order follow from the seed, so that two runs do the same.
//! Every answer is checked: the program ends with 0 if all of them are what they must be.
//!
//! YCSB itself is in Java, whose own instructions would be most of what is counted in the guest. This is a static
//! program without libc, built for bare metal, as `bench/window` is; on any other target it is an empty one.
//! Nobody relocates it: it must not follow pointers from static data, so there are no tables of references and
//! no `core::fmt` here.
#![cfg_attr(target_os = "none", no_std, no_main)]

#[cfg(any(target_os = "none", test))]
mod bson;
#[cfg(any(target_os = "none", test))]
mod choice;
#[cfg(target_os = "none")]
mod linux;
#[cfg(target_os = "none")]
mod program;
#[cfg(any(target_os = "none", test))]
mod wire;
#[cfg(any(target_os = "none", test))]
mod workload;

#[cfg(not(target_os = "none"))]
fn main() {}
