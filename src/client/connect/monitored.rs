//! Listens to a connection for the reason why it breaks.
//!
//! In TLS 1.3 a client has finished its handshake before the node has judged its certificate: a
//! refusal is an alert on the open connection. A node that speaks TLS answers clear text with an
//! alert too. HTTP/2 knows nothing of either, so the bytes are looked at here on their way.

use std::io;
use std::pin::Pin;
use std::sync::{Arc, Mutex, MutexGuard};
use std::task::{Context, Poll, ready};

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

use super::error::DialError;
use super::tls::About;

/// Content type of a TLS alert, and the major version of every TLS.
const TLS_ALERT: [u8; 2] = [0x15, 0x03];

/// Why the newest connection of a channel broke, once that is known.
#[derive(Debug, Default)]
pub(crate) struct BreakReason(Mutex<State>);

#[derive(Debug, Default)]
struct State {
    /// Why the connection broke, or was not made.
    reason: Option<DialError>,
}

impl BreakReason {
    /// Why the connection broke, if that is known.
    pub(crate) fn reason(&self) -> Option<DialError> {
        self.state().reason.clone()
    }

    /// Another connection is made.
    pub(super) fn begin(&self) {
        *self.state() = State::default();
    }

    /// The first reason is the cause of those that follow.
    pub(super) fn note(&self, reason: &DialError) {
        self.state().reason.get_or_insert_with(|| reason.clone());
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.0.lock().expect("nothing panics while it holds this lock")
    }
}

/// A connection whose reads are watched for an alert.
pub(super) struct MonitoredStream<S> {
    io: S,
    /// With TLS: the certificates.
    about: Option<Arc<About>>,
    /// Nothing was read yet.
    is_silent: bool,
    break_reason: Arc<BreakReason>,
}

impl<S: AsyncRead + AsyncWrite + Unpin> MonitoredStream<S> {
    pub(super) fn new(
        io: S,
        about: Option<Arc<About>>,
        break_reason: Arc<BreakReason>,
    ) -> MonitoredStream<S> {
        MonitoredStream { io, about, is_silent: true, break_reason }
    }

    /// The first bytes in answer to clear text.
    fn on_first(&mut self, bytes: &[u8]) {
        self.is_silent = false;
        if self.about.is_none() && bytes.starts_with(&TLS_ALERT) {
            self.break_reason.note(&DialError::NodeSpeaksTls);
        }
    }

    fn on_error(&self, error: &io::Error) {
        let Some(about) = &self.about else { return };
        if let Some(reason) = DialError::in_tls(error, about) {
            self.break_reason.note(&reason);
        } else if self.is_silent {
            self.break_reason.note(&DialError::closed_at_once(error, about));
        }
    }

    /// A node that refuses the certificate closes the connection while we write. Its alert came
    /// before that.
    fn on_write_error(&mut self, cx: &mut Context<'_>, error: &io::Error) {
        let mut scratch = [0; 1024];
        let mut buf = ReadBuf::new(&mut scratch);
        match Pin::new(&mut self.io).poll_read(cx, &mut buf) {
            Poll::Ready(Err(cause)) => self.on_error(&cause),
            _ if self.is_silent && !buf.filled().is_empty() => self.on_first(buf.filled()),
            _ => self.on_error(error),
        }
    }
}

impl<S: AsyncRead + AsyncWrite + Unpin> AsyncRead for MonitoredStream<S> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let before = buf.filled().len();
        let read = ready!(Pin::new(&mut self.io).poll_read(cx, buf));
        match &read {
            Err(error) => self.on_error(error),
            Ok(()) if self.is_silent && buf.filled().len() == before => {
                self.on_error(&io::ErrorKind::UnexpectedEof.into());
            }
            Ok(()) if self.is_silent => self.on_first(&buf.filled()[before..]),
            Ok(()) => {}
        }
        Poll::Ready(read)
    }
}

impl<S: AsyncRead + AsyncWrite + Unpin> AsyncWrite for MonitoredStream<S> {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        let written = ready!(Pin::new(&mut self.io).poll_write(cx, bytes));
        Poll::Ready(written.inspect_err(|error| self.on_write_error(cx, error)))
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let flushed = ready!(Pin::new(&mut self.io).poll_flush(cx));
        Poll::Ready(flushed.inspect_err(|error| self.on_write_error(cx, error)))
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.io).poll_shutdown(cx)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let written = ready!(Pin::new(&mut self.io).poll_write_vectored(cx, bufs));
        Poll::Ready(written.inspect_err(|error| self.on_write_error(cx, error)))
    }

    fn is_write_vectored(&self) -> bool {
        self.io.is_write_vectored()
    }
}

#[cfg(test)]
mod tests {
    use indelible_tls::rustls::{self, AlertDescription};
    use tokio::io::AsyncWriteExt;

    use super::*;

    /// The node has sent an alert and is gone.
    struct Gone;

    impl AsyncRead for Gone {
        fn poll_read(
            self: Pin<&mut Self>,
            _: &mut Context<'_>,
            _: &mut ReadBuf<'_>,
        ) -> Poll<io::Result<()>> {
            let alert = rustls::Error::AlertReceived(AlertDescription::CertificateRevoked);
            Poll::Ready(Err(io::Error::new(io::ErrorKind::InvalidData, alert)))
        }
    }

    impl AsyncWrite for Gone {
        fn poll_write(
            self: Pin<&mut Self>,
            _: &mut Context<'_>,
            _: &[u8],
        ) -> Poll<io::Result<usize>> {
            Poll::Ready(Err(io::ErrorKind::BrokenPipe.into()))
        }

        fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
            Poll::Ready(Ok(()))
        }

        fn poll_shutdown(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
            Poll::Ready(Ok(()))
        }
    }

    #[tokio::test]
    async fn an_alert_is_heard_though_writing_fails_first() {
        let about = About {
            ca: "ca.crt".into(),
            certificate: "the client certificate".into(),
            validity: String::new(),
        };
        let break_reason = Arc::new(BreakReason::default());
        let mut stream = MonitoredStream::new(Gone, Some(Arc::new(about)), break_reason.clone());
        let error = stream.write_all(b"a request").await.expect_err("it is gone");
        assert_eq!(error.kind(), io::ErrorKind::BrokenPipe);
        let reason = break_reason.reason().expect("the reason is known").to_string();
        assert!(reason.contains("is revoked"), "{reason}");
    }
}
