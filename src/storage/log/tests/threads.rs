//! Readers beside a writer.

use std::sync::atomic::{AtomicBool, Ordering};

use super::support::*;

#[test]
fn reads_while_appending_and_truncating() {
    let dir = temp_dir();
    let (log, _) = Log::open(dir.path(), options()).unwrap();
    let stop = AtomicBool::new(false);
    let reads = std::thread::scope(|scope| {
        let readers: Vec<_> = (0..4)
            .map(|seed| {
                scope.spawn({
                    let (log, stop) = (log.clone(), &stop);
                    move || read_until(&log, stop, seed)
                })
            })
            .collect();
        for round in 0..60 {
            let next = log.last().map_or(0, |last| last.index + 1);
            let term = round + 1;
            append(&log, (next..next + 20).map(|i| entry(i, term, 200)).collect());
            log.set_committed(next + 5);
            log.set_applied(next + 5);
            // A new leader keeps a part of what is not committed.
            wait(|done| log.truncate_after(Some(next + 9), done).unwrap()).unwrap();
        }
        stop.store(true, Ordering::Relaxed);
        readers.into_iter().map(|reader| reader.join().unwrap()).sum::<u64>()
    });
    assert_eq!(log.last().unwrap().index, 599);
    assert!(reads > 100, "{reads} reads");
    let terms = |index: u64| index / 10 + 1;
    check(&log, &(0..600).map(|i| entry(i, terms(i), 200)).collect::<Vec<_>>());
}

/// Reads at changing places; what is there must be an entry that was appended there.
fn read_until(log: &Log, stop: &AtomicBool, seed: u64) -> u64 {
    let mut reads = 0;
    let mut place = seed;
    while !stop.load(Ordering::Relaxed) {
        let Some(last) = log.last() else { continue };
        place = place.wrapping_mul(6364136223846793005).wrapping_add(1442695040888963407);
        let index = (place >> 33) % (last.index + 1);
        let read = match seed % 2 {
            0 => log.read(index..index + 3, 500),
            _ => log.locate(index).and_then(|at| log.read_at(at)).map(|(entry, _)| vec![entry]),
        };
        match read {
            Ok(entries) => {
                for found in &entries {
                    assert_eq!(*found, entry(found.id.index, found.id.term, 200));
                }
                reads += 1;
            }
            Err(LogError::Missing { .. }) => {}
            Err(error) => panic!("entry {index}: {error}"),
        }
    }
    reads
}
