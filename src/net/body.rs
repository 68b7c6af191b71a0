//! Request bodies: how large, how slow, and how many of them at once.

use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use bytes::{Buf, Bytes};
use http_body::{Body, Frame, SizeHint};
use indelible_core::limits::{BODY_DEADLINE, BODY_OVERHEAD_BYTES};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::time::{Sleep, sleep};
use tonic::Status;

use super::connection::Active;

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
    left: u64,
    bytes_max: u64,
    held: Held,
    deadline: Option<Pin<Box<Sleep>>>,
}

/// Bytes of the budget that a body holds.
enum Held {
    /// It needs none, but its place among the streams.
    Free(#[expect(dead_code, reason = "given back when it is dropped")] OwnedSemaphorePermit),
    /// Some.
    Some(Arc<Semaphore>, OwnedSemaphorePermit),
    /// There were none left.
    Refused,
}

impl<B> LimitedBody<B> {
    /// Waits for nothing: a body that finds no room fails when it is read.
    pub fn new(inner: B, allowance: Allowance) -> LimitedBody<B> {
        let (bytes_max, held, deadline) = match allowance {
            Allowance::Stream(place) => (u64::MAX, Held::Free(place), None),
            Allowance::Whole { bytes_max, budget: Budget(budget) } => {
                // A body of one byte costs a task and a buffer all the same.
                let held = match budget.clone().try_acquire_many_owned(BODY_OVERHEAD_BYTES) {
                    Ok(permit) => Held::Some(budget, permit),
                    Err(_) => Held::Refused,
                };
                (bytes_max, held, Some(Box::pin(sleep(BODY_DEADLINE))))
            }
        };
        LimitedBody { inner, left: bytes_max, bytes_max, held, deadline }
    }

    /// Counts what has arrived.
    fn take(&mut self, bytes: usize) -> Result<(), Status> {
        let max = self.bytes_max;
        self.left = self.left.checked_sub(bytes as u64).ok_or_else(|| {
            Status::resource_exhausted(format!(
                "a request of more than {max} bytes, the limit here"
            ))
        })?;
        let refused = || {
            Status::resource_exhausted(
                "too many unfinished requests at this port; hint: send whole requests, try again",
            )
        };
        match &mut self.held {
            Held::Free(_) => Ok(()),
            Held::Refused => Err(refused()),
            Held::Some(budget, held) => {
                let bytes = u32::try_from(bytes).map_err(|_| refused())?;
                let more = budget.clone().try_acquire_many_owned(bytes).map_err(|_| refused())?;
                held.merge(more);
                Ok(())
            }
        }
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
            && let Err(status) = self.take(0)
        {
            return Poll::Ready(Some(Err(status.into())));
        }
        match Pin::new(&mut self.inner).poll_frame(cx) {
            Poll::Ready(Some(Ok(frame))) => {
                let bytes = frame.data_ref().map_or(0, Buf::remaining);
                Poll::Ready(Some(match self.take(bytes) {
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
