//! What is done, and who frees it.

use super::*;
use crate::record::Record;

const BYTES_MAX: usize = 1 << 20;

fn queue() -> Queue {
    let bounds = Bounds { ops_max: 8, bytes_max: BYTES_MAX, delay: Duration::ZERO };
    Queue::new(bounds, 0)
}

fn ops(count: u64) -> Vec<Op> {
    let change = || Change::Remove(Record::of_key(b"key"));
    (0..count).map(|seq| Op { seq, change: change(), reported: true, joined: false }).collect()
}

fn spent(queue: &Queue) -> usize {
    queue.state.lock().spent.len()
}

/// Work that is done, and counts so many bytes.
fn work(count: u64, bytes: usize) -> Work {
    Work { ops: ops(count), load: Load { bytes, ..Load::NONE }, ..Work::default() }
}

#[test]
fn what_is_done_is_freed_by_who_is_given_room_and_with_the_next_batch() {
    let queue = queue();
    queue.spend(work(3, 1));
    let load = Load { ops: 4, bytes: 1, charge: 0 };
    let reserve = || queue.reserve(load, Duration::ZERO, || Load { ops: 8, bytes: 8, charge: 8 });
    let room = reserve();
    assert!(matches!(room, Reserved::Room(_)));
    assert_eq!(spent(&queue), 2);
    let second = reserve();
    assert!(matches!(reserve(), Reserved::Full { ahead: false }));
    assert_eq!(spent(&queue), 1, "who gets no room keeps nothing");
    queue.spend(work(2, 1));
    assert_eq!(spent(&queue), 2, "what was left is freed");
    drop((room, second));
    assert!(matches!(reserve(), Reserved::Room(_)));
    assert!(matches!(reserve(), Reserved::Room(_)));
    assert_eq!(spent(&queue), 0);
}

#[test]
fn what_is_done_and_large_is_freed_at_once() {
    let queue = queue();
    queue.spend(work(3, BYTES_MAX / 4));
    assert_eq!(spent(&queue), 3);
    queue.spend(work(3, BYTES_MAX / 4 + 1));
    assert_eq!(spent(&queue), 0);
}

#[test]
fn what_is_done_is_freed_before_the_writer_waits_or_ends() {
    let queue = &queue();
    let pace = Pace { fraction: 1, ops_max: 8, is_shared: false };
    queue.spend(work(3, 1));
    assert!(queue.next(Pace { is_shared: true, ..pace }).is_none());
    assert_eq!(spent(queue), 0, "it has something else to do");
    queue.spend(work(3, 1));
    queue.hurry();
    assert!(queue.failed("the device is gone", Duration::ZERO));
    assert_eq!(spent(queue), 0, "the disk fails");
    queue.spend(work(3, 1));
    thread::scope(|scope| {
        let writer = scope.spawn(move || queue.next(pace).is_some_and(|work| work.close));
        while spent(queue) > 0 {
            thread::yield_now();
        }
        queue.close();
        assert!(writer.join().is_ok_and(|closes| closes));
    });
    queue.spend(work(3, 1));
    queue.ended();
    assert_eq!(spent(queue), 0, "the cache is closed");
}

#[test]
fn a_sweep_that_answers_another_is_as_late_as_that() {
    let queue = queue();
    for now in [5, 9, 7, 3] {
        queue.ask_sweep(Sweep { now, time_to_idle: 0 });
    }
    let taken = queue.state.lock().sweeps.take(0);
    assert_eq!(taken.map(|(ticket, sweep)| (ticket, sweep.now)), Some((4, 9)));
    // A clock that went back is believed again once nobody waits.
    queue.ask_sweep(Sweep { now: 2, time_to_idle: 0 });
    assert_eq!(queue.state.lock().sweeps.take(0).map(|(_, sweep)| sweep.now), Some(2));
}
