//! What both ends of one TLS connection know, and nobody else: a signature over it is worth nothing
//! on another connection (RFC 8446, section 7.5; RFC 9266).

use rustls::{ClientConnection, ServerConnection};

/// Label of the exported value. It names this use, so that no other use of the exporter gives the
/// same bytes.
pub const EXPORTER_LABEL: &[u8] = b"EXPORTER-indelible-peer-v1";

/// The value at the accepting end; an error before the handshake is complete.
pub fn exporter_of_server(connection: &ServerConnection) -> Result<[u8; 32], rustls::Error> {
    connection.export_keying_material([0; 32], EXPORTER_LABEL, None)
}

/// The value at the dialing end, equal to that at the accepting end.
pub fn exporter_of_client(connection: &ClientConnection) -> Result<[u8; 32], rustls::Error> {
    connection.export_keying_material([0; 32], EXPORTER_LABEL, None)
}
