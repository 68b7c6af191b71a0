//! Events: what validation accepts decodes, and has its fields once.
#![no_main]

#[allow(dead_code)]
#[path = "../common.rs"]
mod common;

use indelible_core::Kind;
use indelible_proto::{event_json, v1, validate_event};
use libfuzzer_sys::fuzz_target;
use prost::Message;

fuzz_target!(init: common::write_seeds(&seeds()), |data: &[u8]| {
    // Shown to people whatever it is.
    for kind in Kind::ALL {
        let _ = event_json(kind, data);
    }
    if validate_event(data).is_ok() {
        let event = v1::Event::decode(data).expect("what is valid decodes");
        let again = event.encode_to_vec();
        assert_eq!(v1::Event::decode(again.as_slice()).as_ref(), Ok(&event));
        validate_event(&again).expect("what was encoded anew is valid");
    }
});

fn seeds() -> Vec<Vec<u8>> {
    let event = v1::Event {
        id: "1".into(),
        r#type: "user.login".into(),
        action: "LOGIN".into(),
        actor: Some(v1::Actor { id: "alice".into(), ..Default::default() }),
        targets: vec![v1::Target { id: "invoice/7".into(), ..Default::default() }],
        attributes: [("a".to_owned(), Default::default())].into(),
        ..Default::default()
    };
    vec![event.encode_to_vec()]
}
