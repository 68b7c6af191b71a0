//! Mending one segment of an open log.
//!
//! A sealed one is written anew beside the old one and takes its name; whoever reads the old file
//! at that moment goes on with it. In one that is not sealed, the IO thread writes the same bytes
//! over the damaged ones: it has the file open, and nothing else may write there.
//!
//! Where the segment ends and what the chain is there, the open log knows: every hole is closed.

use std::sync::mpsc::channel;
use std::sync::{Arc, PoisonError};

use super::io::Control;
use super::scrub::Part;
use super::state::{Shared, State};
use super::{Done, Log, LogError};
use crate::disk::{DiskError, File};
use crate::storage::frame::{FRAME_HEADER_SIZE, Location};
use crate::storage::mend::swap::{self, NewSegment};
use crate::storage::mend::walk::{After, Walk};
use crate::storage::mend::{Fetch, FetchError, Fetched, MendError, Mended, Own, Supply, Want};
use crate::storage::segment::{self, Summary};

/// Bytes that belong at an offset of a segment.
#[derive(Debug)]
pub(super) struct Patch {
    pub(super) offset: u64,
    pub(super) bytes: Vec<u8>,
}

impl Patch {
    fn end(&self) -> u64 {
        self.offset + self.bytes.len() as u64
    }
}

impl Log {
    /// Mends the segment that starts with entry `first`, sealed or not: asks `fetch` for what is
    /// damaged and not in memory. Durable on return. Nothing in the answer: nothing was damaged.
    /// After [`MendError::Refused`] or [`MendError::DoesNotJoin`] nothing was changed, and another
    /// peer may have the right entries. Blocks; readers and writers go on meanwhile.
    pub fn mend_segment(&self, first: u64, fetch: &mut Fetch<'_>) -> Result<Mended, MendError> {
        let shared = &self.shared;
        let _one_at_a_time = shared.mending.lock().unwrap_or_else(PoisonError::into_inner);
        let part = shared.lock().part(first).ok_or(MendError::Gone { index: first })?;
        let name = segment::file_name(first);
        let dir = shared.files.dir();
        let file = match dir.exists(&name)? {
            true => Some(dir.open_file_read_only(&name)?),
            // The writer's file has no name any more: only a restart finds what is left of it.
            false if !part.sealed => {
                return Err(MendError::NotNow { file: dir.path().join(name) });
            }
            false => None,
        };
        let mut supply = |want: &Want| -> Result<Supply, FetchError> {
            let in_memory = shared.lock().in_memory(want.from);
            in_memory.map_or_else(|| fetch(want), |found| Ok(Supply::Entries(vec![found])))
        };
        match shared.mend(&part, file.as_ref(), false, &mut supply) {
            // Its own frames follow from each other and lead elsewhere: somebody has written them.
            Err(MendError::DoesNotJoin { .. }) => {
                shared.mend(&part, file.as_ref(), true, &mut supply)
            }
            done => done,
        }
    }

    /// Mends the segment of one damaged entry that the caller has fetched. As
    /// [`Self::mend_segment`], which is asked for whatever else is damaged there.
    pub fn mend_frame(&self, index: u64, fetched: Fetched) -> Result<Mended, MendError> {
        let state = self.shared.lock();
        let first = state.segments.range(..=index).next_back().map(|(first, _)| *first);
        drop(state);
        let first = first.ok_or(MendError::Gone { index })?;
        self.mend_segment(first, &mut |want| match want.from == index {
            true => Ok(Supply::Entries(vec![fetched.clone()])),
            false => Err("more of the segment is damaged".into()),
        })
    }
}

impl State {
    /// An entry that is in memory, once it is chained.
    fn in_memory(&self, index: u64) -> Option<Fetched> {
        let slot = self.slot(index)?;
        Some(Fetched { entry: slot.entry.clone(), chain: slot.placed?.chain })
    }
}

impl Shared {
    fn mend(
        &self,
        part: &Part,
        file: Option<&File>,
        doubted: bool,
        fetch: &mut Fetch<'_>,
    ) -> Result<Mended, MendError> {
        let common = self.common();
        let Summary { first, next, chain_before, .. } = part.summary;
        let mut own = Own::new(first, file, &common)?;
        let header = part.header(&common);
        let header_damaged = own.header() != Some(&header);
        let mut new = match part.sealed {
            true => Some(NewSegment::create(self.files.dir(), &header)?),
            false => None,
        };
        let mut patches = Vec::new();
        if header_damaged && new.is_none() {
            patches.push(Patch { offset: 0, bytes: header.encode().to_vec() });
        }
        let mut walk = Walk::new(first, chain_before, fetch);
        // Own frames that do not follow are damage: what the entries lead to is known.
        walk.doubting = true;
        let walked = walk.segment(
            &mut own,
            common.segment_bytes,
            doubted,
            next,
            &mut |own, summary, _, _| {
                let following = own.following(summary.frames_end, summary.next)?;
                Ok(After::Hole(Some(following.map_or(next, |(index, _)| index.min(next)))))
            },
            &mut |entry, header, location, of_peer| {
                if let Some(new) = &mut new {
                    return new.put(entry, header, location);
                }
                // What is not durable yet, the IO thread will write in its turn.
                if of_peer && entry.id.index < part.durable.0 {
                    // Frames in a row are one patch, so that few files are kept of it.
                    let joins = |patch: &&mut Patch| patch.end() == location.offset;
                    let bytes = match patches.last_mut().filter(joins) {
                        Some(patch) => &mut patch.bytes,
                        None => {
                            patches.push(Patch { offset: location.offset, bytes: Vec::new() });
                            &mut patches.last_mut().expect("it was pushed").bytes
                        }
                    };
                    swap::push_frame(bytes, entry, header, location);
                }
                Ok(())
            },
        );
        let outcome = walked.and_then(|(summary, _)| match summary == part.summary {
            true => Ok(summary),
            false => {
                let from = walk.fetched.first().map_or(first, |range| range.start);
                Err(MendError::DoesNotJoin { from, index: next })
            }
        });
        let fetched = std::mem::take(&mut walk.fetched);
        let mended = Mended { fetched, ..Mended::default() };
        let Some(new) = new else {
            outcome?;
            return self.patch(part, own, patches, mended);
        };
        let summary = match outcome {
            Ok(summary) => summary,
            Err(error) => {
                swap::discard(self.files.dir(), first)?;
                return Err(error);
            }
        };
        if mended.fetched.is_empty() && own.is_whole(&summary, true)? {
            swap::discard(self.files.dir(), first)?;
            return Ok(mended);
        }
        new.finish(&summary, true, common.segment_bytes)?;
        let kept = swap::replace(&self.data, self.files.dir(), first)?;
        self.files.forget(first);
        let mut mended = Mended { segments: vec![first], ..mended };
        if let Some(kept) = kept {
            mended.keep(kept);
        }
        Ok(mended)
    }

    /// Lets the IO thread write over what is damaged in a segment that is not sealed.
    fn patch(
        &self,
        part: &Part,
        mut own: Own<'_>,
        patches: Vec<Patch>,
        mut mended: Mended,
    ) -> Result<Mended, MendError> {
        let first = part.summary.first;
        if patches.is_empty() {
            return Ok(Mended::default());
        }
        // Kept for nothing if the entries are gone. They may go meanwhile: see below.
        if self.lock().epoch != part.epoch {
            return Err(MendError::Gone { index: first });
        }
        for Patch { offset, bytes } in &patches {
            let damaged = own.bytes(*offset, bytes.len().max(FRAME_HEADER_SIZE))?;
            let location = Location { segment: first, offset: *offset };
            mended.keep(swap::keep_bytes(&self.data, location, &damaged)?);
        }
        mended.segments.push(first);
        let (sender, receiver) = channel();
        let done: Done = Box::new(move |outcome| {
            // Whoever waits for it is there until it comes.
            let _ = sender.send(outcome);
        });
        let mut state = self.lock_with_room();
        state.check_open().map_err(LogError::Stopped)?;
        if state.epoch != part.epoch {
            return Err(MendError::Gone { index: first });
        }
        state.queue_ops += 1;
        state.send(super::chain::Op::Control(Control::Patch { first, patches, done }));
        drop(state);
        let outcome = receiver.recv().unwrap_or_else(|_| Err(Arc::new(LogError::Panicked)));
        outcome.map_err(LogError::Stopped)?;
        Ok(mended)
    }
}

/// Writes the patches and makes them durable.
pub(super) fn write(file: &File, patches: &[Patch]) -> Result<(), DiskError> {
    for Patch { offset, bytes } in patches {
        file.write_all_at(bytes, *offset)?;
    }
    // Crash before: any part of the damage is left, and is found again. After: it is gone.
    file.sync_data()
}
