//! Request bodies: how large, how slow, and how many of them at once.

use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use bytes::Bytes;
use http_body::{Body, Frame, SizeHint};
use indelible_core::limits::{BODY_DEADLINE, BODY_OVERHEAD_BYTES};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::time::{Sleep, sleep};
use tonic::Status;

use super::connection::Active;

/// What comes before a gRPC message: whether it is compressed, and its length, big-endian.
const PREFIX_BYTES: usize = 5;

/// Bytes that the unfinished request bodies of one port may hold together.
#[derive(Debug, Clone)]
pub struct Budget(Arc<Semaphore>);

impl Budget {
    /// Of so many bytes.
    pub fn new(bytes: usize) -> Budget {
        Budget(Arc::new(Semaphore::new(bytes)))
    }
}

/// What one request body may be.
#[derive(Debug)]
pub enum Allowance {
    /// Of so many bytes, all of which must be there in time, out of a budget.
    Whole {
        /// Bytes; more end the request.
        bytes_max: u64,
        /// Where unfinished ones are counted.
        budget: Budget,
    },
    /// A stream without end, whose messages are taken one by one. There are few of them, because
    /// one may hold a message and a window.
    Stream(OwnedSemaphorePermit),
}

/// A request body within its allowance.
pub struct LimitedBody<B> {
    inner: B,
    arrived: Arrived,
    bytes_max: u64,
    held: Held,
    deadline: Option<Pin<Box<Sleep>>>,
}

/// How much of a body has arrived, and how much it announces.
#[derive(Default)]
struct Arrived {
    bytes: u64,
    /// Where the newest message begins: a body should have one, and may have more.
    message: u64,
    /// The first bytes of that message: they say how long it is.
    prefix: [u8; PREFIX_BYTES],
}

impl Arrived {
    fn add(&mut self, mut data: &[u8]) {
        while !data.is_empty() {
            let begun = self.bytes - self.message;
            let count = match usize::try_from(begun).ok().and_then(|at| self.prefix.get_mut(at..)) {
                Some(rest) if !rest.is_empty() => {
                    let count = rest.len().min(data.len());
                    rest[..count].copy_from_slice(&data[..count]);
                    count
                }
                _ => data.len().min(usize::try_from(self.end() - self.bytes).unwrap_or(usize::MAX)),
            };
            self.bytes += count as u64;
            data = &data[count..];
            if self.bytes - self.message >= PREFIX_BYTES as u64 && self.bytes == self.end() {
                (self.message, self.prefix) = (self.bytes, [0; PREFIX_BYTES]);
            }
        }
    }

    /// Where the newest message ends, as far as is known.
    fn end(&self) -> u64 {
        let [_, length @ ..] = self.prefix;
        self.message + PREFIX_BYTES as u64 + u64::from(u32::from_be_bytes(length))
    }

    /// What the body needs in memory: the decoder makes room for a message as soon as it knows its
    /// length, whether or not the rest of it ever comes.
    fn needs(&self) -> u64 {
        self.bytes.max(self.end())
    }
}

/// Bytes of the budget that a body holds.
enum Held {
    /// It needs none, but its place among the streams.
    Free(#[expect(dead_code, reason = "given back when it is dropped")] OwnedSemaphorePermit),
    /// Some.
    Some(Reserved),
    /// There were none left.
    Refused,
}

/// A part of a budget.
struct Reserved {
    budget: Arc<Semaphore>,
    permit: OwnedSemaphorePermit,
    /// Bytes of it that are for data.
    for_data: u64,
}

impl Reserved {
    /// A body of one byte costs a task and a buffer all the same.
    fn overhead(budget: Arc<Semaphore>) -> Option<Reserved> {
        let permit = budget.clone().try_acquire_many_owned(BODY_OVERHEAD_BYTES).ok()?;
        Some(Reserved { budget, permit, for_data: 0 })
    }

    /// Makes it enough for so many bytes of data. None if the budget has no more.
    fn grow(&mut self, bytes: u64) -> Option<()> {
        let more = u32::try_from(bytes.saturating_sub(self.for_data)).ok()?;
        self.permit.merge(self.budget.clone().try_acquire_many_owned(more).ok()?);
        self.for_data += u64::from(more);
        Some(())
    }
}

impl<B> LimitedBody<B> {
    /// Waits for nothing: a body that finds no room fails when it is read.
    pub fn new(inner: B, allowance: Allowance) -> LimitedBody<B> {
        let (bytes_max, held, deadline) = match allowance {
            Allowance::Stream(place) => (u64::MAX, Held::Free(place), None),
            Allowance::Whole { bytes_max, budget: Budget(budget) } => {
                let held = Reserved::overhead(budget).map_or(Held::Refused, Held::Some);
                (bytes_max, held, Some(Box::pin(sleep(BODY_DEADLINE))))
            }
        };
        LimitedBody { inner, arrived: Arrived::default(), bytes_max, held, deadline }
    }

    /// Counts what has arrived.
    fn take(&mut self, data: &[u8]) -> Result<(), Status> {
        let max = self.bytes_max;
        self.arrived.add(data);
        if self.arrived.bytes > max {
            return Err(Status::resource_exhausted(format!(
                "a request of more than {max} bytes, the limit here"
            )));
        }
        let has_room = match &mut self.held {
            Held::Free(_) => true,
            Held::Refused => false,
            // What announces more than the limit is refused by its decoder.
            Held::Some(reserved) => reserved.grow(self.arrived.needs().min(max)).is_some(),
        };
        has_room.then_some(()).ok_or_else(|| {
            Status::resource_exhausted(
                "too many unfinished requests at this port; hint: send whole requests, try again",
            )
        })
    }
}

impl<B> Body for LimitedBody<B>
where
    B: Body<Data = Bytes> + Unpin,
    B::Error: Into<Box<dyn std::error::Error + Send + Sync>>,
{
    type Data = Bytes;
    type Error = Box<dyn std::error::Error + Send + Sync>;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Self::Error>>> {
        if matches!(self.held, Held::Refused)
            && let Err(status) = self.take(&[])
        {
            return Poll::Ready(Some(Err(status.into())));
        }
        match Pin::new(&mut self.inner).poll_frame(cx) {
            Poll::Ready(Some(Ok(frame))) => {
                let data = frame.data_ref().map_or(&[][..], |data| data.as_ref());
                Poll::Ready(Some(match self.take(data) {
                    Ok(()) => Ok(frame),
                    Err(status) => Err(status.into()),
                }))
            }
            Poll::Ready(Some(Err(error))) => Poll::Ready(Some(Err(error.into()))),
            Poll::Ready(None) => Poll::Ready(None),
            Poll::Pending => {
                let Some(deadline) = &mut self.deadline else { return Poll::Pending };
                std::task::ready!(deadline.as_mut().poll(cx));
                let late = format!("the request was not complete in {BODY_DEADLINE:?}");
                Poll::Ready(Some(Err(Status::deadline_exceeded(late).into())))
            }
        }
    }

    fn is_end_stream(&self) -> bool {
        self.inner.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.inner.size_hint()
    }
}

/// An answer's body, which ends the request when it is dropped.
pub(super) struct TrackedBody<B> {
    inner: B,
    _active: Active,
}

impl<B> TrackedBody<B> {
    pub(super) fn new(inner: B, active: Active) -> TrackedBody<B> {
        TrackedBody { inner, _active: active }
    }
}

impl<B: Body + Unpin> Body for TrackedBody<B> {
    type Data = B::Data;
    type Error = B::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<B::Data>, B::Error>>> {
        Pin::new(&mut self.inner).poll_frame(cx)
    }

    fn is_end_stream(&self) -> bool {
        self.inner.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.inner.size_hint()
    }
}
