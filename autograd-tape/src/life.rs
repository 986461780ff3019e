//! The life of a tape, and the lock that its threads meet at.
//!
//! A tape is live, then spent or dropped. The step is made under the lock of the record, so whoever
//! holds that lock and has seen the tape live may add to the record: nothing is added behind the
//! back of the thread that takes it. The lock and the flag are a parameter, so that the models
//! below run the very same code under every interleaving.

use std::ops::DerefMut;

/// Whether a tape still watches.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum State {
    Live,
    Spent,
    Dropped,
}

/// What a life is made of: a flag that is read without the lock, and a lock.
pub(crate) trait System {
    type Flag;
    type Lock<R>;
    type Guard<'a, R: 'a>: DerefMut<Target = R>;

    fn flag() -> Self::Flag;
    /// The number last stored, with what was written before it.
    fn load(flag: &Self::Flag) -> u8;
    fn store(flag: &Self::Flag, number: u8);
    fn new<R>(inside: R) -> Self::Lock<R>;
    fn lock<R>(lock: &Self::Lock<R>) -> Self::Guard<'_, R>;
}

/// A record and whether it is still written.
#[derive(Debug)]
pub(crate) struct Life<S: System, R> {
    state: S::Flag,
    record: S::Lock<R>,
}

impl<S: System, R> Life<S, R> {
    pub(crate) fn new(record: R) -> Self {
        Self { state: S::flag(), record: S::new(record) }
    }

    pub(crate) fn state(&self) -> State {
        match S::load(&self.state) {
            0 => State::Live,
            1 => State::Spent,
            _ => State::Dropped,
        }
    }

    /// The record, whatever has become of the tape.
    pub(crate) fn lock(&self) -> S::Guard<'_, R> {
        S::lock(&self.record)
    }

    /// The record of a tape that is live, and stays so while this is held.
    pub(crate) fn live(&self) -> Option<S::Guard<'_, R>> {
        let record = self.lock();
        (self.state() == State::Live).then_some(record)
    }

    /// Spends a live tape: what `take` takes out of the record. `None` where another thread was
    /// first.
    pub(crate) fn spend<T>(&self, take: impl FnOnce(&mut R) -> T) -> Option<T> {
        let mut record = self.live()?;
        S::store(&self.state, 1);
        Some(take(&mut record))
    }

    /// Drops the tape, spent or not.
    pub(crate) fn end<T>(&self, take: impl FnOnce(&mut R) -> T) -> T {
        let mut record = self.lock();
        S::store(&self.state, 2);
        take(&mut record)
    }
}

/// The flag and the lock of this system.
#[derive(Debug)]
pub(crate) struct Own;

impl System for Own {
    type Flag = std::sync::atomic::AtomicU8;
    type Lock<R> = parking_lot::Mutex<R>;
    type Guard<'a, R: 'a> = parking_lot::MutexGuard<'a, R>;

    fn flag() -> Self::Flag {
        Self::Flag::new(0)
    }

    fn load(flag: &Self::Flag) -> u8 {
        flag.load(std::sync::atomic::Ordering::Acquire)
    }

    fn store(flag: &Self::Flag, number: u8) {
        flag.store(number, std::sync::atomic::Ordering::Release);
    }

    fn new<R>(inside: R) -> Self::Lock<R> {
        Self::Lock::new(inside)
    }

    fn lock<R>(lock: &Self::Lock<R>) -> Self::Guard<'_, R> {
        lock.lock()
    }
}

/// Every interleaving of threads that meet at one tape.
#[cfg(test)]
mod models {
    use super::*;
    use loom::sync::atomic::{AtomicU8, Ordering};
    use loom::sync::{Arc, Mutex, MutexGuard};
    use loom::thread;

    struct Model;

    impl System for Model {
        type Flag = AtomicU8;
        type Lock<R> = Mutex<R>;
        type Guard<'a, R: 'a> = MutexGuard<'a, R>;

        fn flag() -> Self::Flag {
            AtomicU8::new(0)
        }

        fn load(flag: &Self::Flag) -> u8 {
            flag.load(Ordering::Acquire)
        }

        fn store(flag: &Self::Flag, number: u8) {
            flag.store(number, Ordering::Release);
        }

        fn new<R>(inside: R) -> Self::Lock<R> {
            Mutex::new(inside)
        }

        fn lock<R>(lock: &Self::Lock<R>) -> Self::Guard<'_, R> {
            lock.lock().expect("no model panics under the lock")
        }
    }

    /// Nodes, each the number of values that refer to it.
    type Tape = Arc<Life<Model, Vec<u32>>>;

    fn tape() -> Tape {
        Arc::new(Life::new(Vec::new()))
    }

    /// Records a node as the tracer does: looks first, does its sums unlocked, looks again.
    fn record(tape: &Tape) -> Option<usize> {
        if tape.state() != State::Live {
            return None;
        }
        let mut nodes = tape.live()?;
        nodes.push(1);
        Some(nodes.len() - 1)
    }

    /// Lets go of a node's value, as its drop does.
    fn release(tape: &Tape, node: usize) {
        if tape.state() != State::Live {
            return;
        }
        if let Some(mut nodes) = tape.live() {
            nodes[node] -= 1;
        }
    }

    fn join<T>(handle: thread::JoinHandle<T>) -> T {
        handle.join().expect("a model's thread does not panic")
    }

    #[test]
    fn one_of_two_gradients_gets_the_record() {
        loom::model(|| {
            let tape = tape();
            assert_eq!(record(&tape), Some(0));
            let other = {
                let tape = tape.clone();
                thread::spawn(move || tape.spend(std::mem::take))
            };
            let here = tape.spend(std::mem::take);
            let there = join(other);
            assert!(here.is_some() != there.is_some(), "a tape is spent once");
            assert_eq!(here.or(there), Some(vec![1]));
            assert_eq!(tape.state(), State::Spent);
        });
    }

    #[test]
    fn what_was_recorded_is_taken_and_nothing_is_recorded_after() {
        loom::model(|| {
            let tape = tape();
            let recording = {
                let tape = tape.clone();
                thread::spawn(move || [record(&tape), record(&tape)].iter().flatten().count())
            };
            let taken = tape.spend(std::mem::take).expect("nobody else spends it");
            // The sweep reads the nodes that it took without a lock.
            let recorded = join(recording);
            assert_eq!(taken.len(), recorded, "a recorded node is in the record that was taken");
            assert!(tape.lock().is_empty(), "nobody records on a spent tape");
        });
    }

    #[test]
    fn two_recorders_lose_no_node() {
        loom::model(|| {
            let tape = tape();
            let other = {
                let tape = tape.clone();
                thread::spawn(move || record(&tape))
            };
            let (here, there) = (record(&tape), join(other));
            assert_ne!(here, there);
            assert_eq!(tape.spend(std::mem::take), Some(vec![1, 1]));
        });
    }

    #[test]
    fn values_are_let_go_while_the_tape_ends() {
        loom::model(|| {
            let tape = tape();
            let node = record(&tape).expect("the tape is live");
            let value = {
                let tape = tape.clone();
                thread::spawn(move || release(&tape, node))
            };
            let spent = {
                let tape = tape.clone();
                thread::spawn(move || tape.spend(std::mem::take).is_some())
            };
            let at_the_end = tape.end(std::mem::take);
            join(value);
            // The nodes went to the gradient or to the end, never to both.
            assert_ne!(join(spent), !at_the_end.is_empty());
            assert!(tape.lock().is_empty() && tape.state() == State::Dropped);
        });
    }
}
