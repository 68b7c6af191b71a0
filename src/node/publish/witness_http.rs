//! One exchange with a witness: C2SP tlog-witness `add-checkpoint`, over HTTP or HTTPS.

use std::time::Duration;

use indelible_core::limits::{NOTE_BYTES_MAX, NOTE_SIGNATURES_MAX};
use indelible_core::{Checkpoint, Hash, NoteSignature, VerifierKey};

/// How long a witness may take to answer.
const ANSWER: Duration = Duration::from_secs(10);
/// Content type of an answer that names the witness's size.
const SIZE_TYPE: &str = "text/x.tlog.size";

/// Why a witness did not sign.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub(super) enum NotWitnessed {
    /// Nobody answers there, or not in time, or not as a witness does.
    #[error("{0}")]
    Unreachable(String),
    /// It has another size than it was asked to grow from.
    #[error("the witness has tree size {0}")]
    OtherSize(u64),
    /// It does not accept a proof from the size that it has: it holds another root there.
    #[error("the witness holds another root at tree size {0}")]
    OtherRoot(u64),
    /// It will not sign: it does not know the log, for instance.
    #[error("the witness answers {status}: {message}")]
    Refused {
        /// HTTP status.
        status: u16,
        /// What it said.
        message: String,
    },
    /// Its answer has no signature of its key that holds.
    #[error("the witness's answer has no signature that holds under its key")]
    NoSignature,
}

/// Who is asked, and how.
#[derive(Debug, Clone)]
pub(super) struct Witness {
    /// For people and metrics.
    pub(super) name: String,
    pub(super) key: VerifierKey,
    url: String,
    agent: ureq::Agent,
}

impl Witness {
    /// `url` is the submission prefix.
    pub(super) fn new(name: String, key: VerifierKey, url: &str) -> Witness {
        let config = ureq::Agent::config_builder()
            .timeout_global(Some(ANSWER))
            .http_status_as_error(false)
            // A witness must not send this node's requests to where it cannot reach itself.
            .max_redirects(0)
            .max_redirects_will_error(false)
            .user_agent(concat!("indelible/", env!("CARGO_PKG_VERSION")))
            .build();
        let url = format!("{}/add-checkpoint", url.trim_end_matches('/'));
        Witness { name, key, url, agent: config.into() }
    }

    /// Asks for a signature over a note; `proof` leads from `old` to its size. Returns the newest
    /// line that is by the witness's key and holds. Blocks.
    pub(super) fn add_checkpoint(
        &self,
        old: u64,
        proof: &[Hash],
        note: &str,
        text: &str,
    ) -> Result<NoteSignature, NotWitnessed> {
        let unreachable = |error: ureq::Error| NotWitnessed::Unreachable(error.to_string());
        let body = request_body(old, proof, note);
        let request =
            self.agent.post(&self.url).header("content-type", "text/plain; charset=utf-8");
        let mut response = request.send(body).map_err(unreachable)?;
        let status = response.status().as_u16();
        let kind = response.headers().get("content-type").and_then(|kind| kind.to_str().ok());
        let is_size = kind.is_some_and(|kind| kind.starts_with(SIZE_TYPE));
        let reader = response.body_mut().with_config().limit(NOTE_BYTES_MAX as u64);
        let answer = reader.read_to_string().map_err(unreachable)?;
        match status {
            200 => self.newest_line(&answer, text),
            409 if is_size => match answer.trim_end().parse() {
                Ok(size) => Err(NotWitnessed::OtherSize(size)),
                Err(_) => Err(NotWitnessed::Unreachable("its size is no number".into())),
            },
            _ => {
                let message = answer.lines().next().unwrap_or_default().chars().take(200).collect();
                Err(NotWitnessed::Refused { status, message })
            }
        }
    }

    /// When it has signed a checkpoint, in Unix seconds by its own clock.
    pub(super) fn signed_at(&self, checkpoint: &Checkpoint, line: &NoteSignature) -> Option<u64> {
        self.key.verify(&checkpoint.to_string(), line).ok()?.unix_s
    }

    /// One line for its key, whatever it sends: many would leave no room in the note for others.
    fn newest_line(&self, answer: &str, text: &str) -> Result<NoteSignature, NotWitnessed> {
        let lines = answer.split_inclusive('\n').take(NOTE_SIGNATURES_MAX);
        let holds = |line: &str| {
            let line = NoteSignature::parse_line(line).ok()?;
            let signed = self.key.verify(text, &line).ok()?;
            Some((signed.unix_s, line))
        };
        let newest = lines.filter_map(holds).max_by_key(|(unix_s, _)| *unix_s);
        newest.map(|(_, line)| line).ok_or(NotWitnessed::NoSignature)
    }
}

/// `old SIZE`, the proof in base64, an empty line, the note.
fn request_body(old: u64, proof: &[Hash], note: &str) -> String {
    use base64::Engine;
    let mut body = format!("old {old}\n");
    for hash in proof {
        body.push_str(&base64::engine::general_purpose::STANDARD.encode(hash.0));
        body.push('\n');
    }
    body.push('\n');
    body.push_str(note);
    body
}

#[cfg(test)]
mod tests {
    use std::io::{Read, Write};
    use std::net::TcpListener;

    use indelible_core::{KeyType, SignerKey};

    use super::*;

    #[test]
    fn a_witness_has_one_line_however_many_it_sends() {
        let key = SignerKey::new("witness.example/w", KeyType::Cosigner, [7; 32]).unwrap();
        let other = SignerKey::new("witness.example/o", KeyType::Cosigner, [8; 32]).unwrap();
        let checkpoint = Checkpoint::new("audit.example/test", 5, Hash([1; 32]));
        let witness = Witness::new("w".into(), key.verifier().clone(), "http://127.0.0.1:1");
        let text = checkpoint.to_string();
        let lines = |key: &SignerKey| -> String {
            [3, 9, 4].map(|unix_s| key.cosign(&checkpoint, unix_s).to_string()).concat()
        };
        let line = witness.newest_line(&(lines(&key) + &lines(&other)), &text).unwrap();
        assert_eq!(key.verifier().verify(&text, &line).unwrap().unix_s, Some(9));
        let nobody = witness.newest_line(&lines(&other), &text);
        assert_eq!(nobody, Err(NotWitnessed::NoSignature));
    }

    #[test]
    fn a_redirect_is_an_answer_and_is_not_followed() {
        let key = SignerKey::new("witness.example/w", KeyType::Cosigner, [7; 32]).unwrap();
        let (asked, other) = ["127.0.0.1:0"; 2].map(|addr| TcpListener::bind(addr).unwrap()).into();
        let url = format!("http://{}", asked.local_addr().unwrap());
        let witness = Witness::new("w".into(), key.verifier().clone(), &url);
        let location = format!("http://{}/add-checkpoint", other.local_addr().unwrap());
        for status in [301, 302, 303, 307, 308] {
            let answered = std::thread::scope(|scope| {
                scope.spawn(|| {
                    let mut stream = asked.accept().unwrap().0;
                    let mut request = Vec::new();
                    while !request.ends_with(b"the note") {
                        let mut bytes = [0; 1024];
                        let count = stream.read(&mut bytes).unwrap();
                        assert_ne!(count, 0, "half a request");
                        request.extend_from_slice(&bytes[..count]);
                    }
                    let head = format!("HTTP/1.1 {status} Moved\r\nlocation: {location}\r\n");
                    let rest = "connection: close\r\ncontent-length: 0\r\n\r\n";
                    stream.write_all((head + rest).as_bytes()).unwrap();
                });
                witness.add_checkpoint(0, &[], "the note", "the note")
            });
            let refused = NotWitnessed::Refused { status, message: String::new() };
            assert_eq!(answered, Err(refused));
        }
        other.set_nonblocking(true).unwrap();
        let nobody = other.accept().map(drop).unwrap_err();
        assert_eq!(nobody.kind(), std::io::ErrorKind::WouldBlock, "nobody came");
    }

    #[test]
    fn a_request_is_written_as_the_specification_says() {
        let body = request_body(3, &[Hash([0; 32]), Hash([255; 32])], "origin\n5\nroot\n\n— s\n");
        let zero = "AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA=";
        let ones = "//////////////////////////////////////////8=";
        assert_eq!(body, format!("old 3\n{zero}\n{ones}\n\norigin\n5\nroot\n\n— s\n"));
        assert_eq!(request_body(0, &[], "n"), "old 0\n\nn");
    }
}
