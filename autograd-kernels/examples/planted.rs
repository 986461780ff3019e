//! Mistakes on purpose, that the tools of `cargo xtask sanitize` must report: a tool that is silent
//! here would be silent about ours.
//!
//! `planted race` writes to one number from two threads without an order, `planted overrun` reads
//! behind the end of a buffer.

use std::cell::UnsafeCell;
use std::process::ExitCode;
use std::thread;

struct Count(UnsafeCell<u64>);

// SAFETY: none. That two threads may write to it without an order is the mistake.
unsafe impl Sync for Count {}

#[inline(never)]
fn add_one(count: &Count) {
    // SAFETY: none against the other thread, on purpose. A volatile access is not an atomic one.
    unsafe { count.0.get().write_volatile(count.0.get().read_volatile() + 1) };
}

fn race() -> u64 {
    let count = Count(UnsafeCell::new(0));
    thread::scope(|scope| {
        for _ in 0..2 {
            scope.spawn(|| (0..1000).for_each(|_| add_one(&count)));
        }
    });
    count.0.into_inner()
}

#[inline(never)]
fn behind(bytes: &[u8]) -> u8 {
    // SAFETY: none, on purpose: this is one byte too far.
    unsafe { bytes.as_ptr().add(bytes.len()).read_volatile() }
}

fn main() -> ExitCode {
    match std::env::args().nth(1).as_deref() {
        Some("race") => println!("{} of 2000 additions arrived", race()),
        Some("overrun") => println!("there lies a {}", behind(&Vec::from([1u8; 24]))),
        _ => {
            eprintln!("usage: planted race|overrun");
            return ExitCode::from(2);
        }
    }
    ExitCode::SUCCESS
}
