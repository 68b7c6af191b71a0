//! Policies: what they believe, what they refuse, and how they are written.

use rand::Rng;
use rand::seq::SliceRandom;

use super::notes::{CHECKPOINT_NOTE, LOG_KEY, TIME, WITNESS_KEY, log_key};
use super::seeded;
use crate::key::SignatureError;
use crate::limits::{NOTE_SIGNATURES_MAX, POLICY_BYTES_MAX, POLICY_NAMES_MAX};
use crate::policy::{NodesError, PolicyError, PolicyFault, Witness};
use crate::{Checkpoint, Hash, KeyType, Note, NoteSignature, Policy, SignerKey, VerifierKey};

const ORIGIN: &str = "audit.example.com/t1";

fn cosigner(number: u8) -> SignerKey {
    let name = crate::node_key_name(ORIGIN, number.into());
    SignerKey::new(name, KeyType::Cosigner, [number; 32]).unwrap()
}

fn witness(number: u8) -> SignerKey {
    SignerKey::new(format!("w{number}.example"), KeyType::Cosigner, [100 + number; 32]).unwrap()
}

fn verifiers(keys: &[SignerKey]) -> Vec<VerifierKey> {
    keys.iter().map(|key| key.verifier().clone()).collect()
}

fn majority_of(count: u8) -> (Policy, Vec<SignerKey>) {
    let nodes: Vec<SignerKey> = (1..=count).map(cosigner).collect();
    let log = log_key().verifier().clone();
    (Policy::majority(log, verifiers(&nodes)).unwrap(), nodes)
}

fn checkpoint() -> Checkpoint {
    Checkpoint::new(ORIGIN, 5, Hash([5; 32]))
}

fn note(signatures: Vec<NoteSignature>) -> Note {
    Note { text: checkpoint().to_string(), signatures }
}

/// The log's signature and those of cosigners at their times.
fn signed(cosigners: &[(&SignerKey, u64)]) -> Note {
    let cosigned = cosigners.iter().map(|(key, time)| key.cosign(&checkpoint(), *time));
    note(std::iter::once(log_key().sign(&checkpoint())).chain(cosigned).collect())
}

fn fault(text: &str) -> (usize, PolicyFault) {
    let error = text.parse::<Policy>().unwrap_err();
    (error.line, error.fault)
}

#[test]
fn the_vectors_pass_their_policy() {
    let text = format!("log {LOG_KEY}\nwitness w1 {WITNESS_KEY}\nquorum w1\n");
    let policy: Policy = text.parse().unwrap();
    assert_eq!(policy.to_string(), text);
    assert_eq!(policy.origin(), ORIGIN);
    let trusted = policy.check(&Note::parse(CHECKPOINT_NOTE).unwrap()).unwrap();
    assert_eq!((trusted.checkpoint.size, trusted.unix_s), (5, TIME));
    assert_eq!(trusted.signers, [ORIGIN, "witness.example.org/w1"]);
}

#[test]
fn a_majority_of_the_nodes() {
    for count in 1..=7u8 {
        let (policy, nodes) = majority_of(count);
        assert_eq!(policy.to_string().parse::<Policy>().unwrap(), policy);
        assert_eq!(policy.node_key(1), Some(nodes[0].verifier()));
        assert_eq!(policy.node_key(99), None);
        for signing in 0..=usize::from(count) {
            let cosigners: Vec<_> = nodes[..signing].iter().map(|key| (key, TIME)).collect();
            let believed = policy.check(&signed(&cosigners));
            assert_eq!(believed.is_ok(), signing > usize::from(count) / 2, "{signing} of {count}");
        }
    }
}

#[test]
fn the_log_key_alone_satisfies_no_policy_and_neither_do_the_nodes_alone() {
    let (policy, nodes) = majority_of(3);
    let alone = policy.check(&signed(&[])).unwrap_err();
    assert!(
        matches!(alone, PolicyError::Quorum { ref missing, .. } if missing.len() == 3),
        "{alone}"
    );
    let mut all = signed(&[(&nodes[0], 1), (&nodes[1], 2), (&nodes[2], 3)]);
    policy.check(&all).unwrap();
    all.signatures.remove(0);
    let refused = policy.check(&all).unwrap_err();
    assert_eq!(refused, PolicyError::NoLogSignature { origin: ORIGIN.into() });
}

#[test]
fn a_signature_counts_once() {
    let (policy, nodes) = majority_of(3);
    let twice = signed(&[(&nodes[0], 10), (&nodes[0], 10), (&nodes[0], 20)]);
    let refused = policy.check(&twice).unwrap_err();
    assert!(
        matches!(refused, PolicyError::Quorum { ref signed, .. } if signed.len() == 1),
        "{refused}"
    );
    // With a second node it is enough, the newest time of each counts, and a name is told once.
    let enough = signed(&[(&nodes[0], 10), (&nodes[0], 20), (&nodes[1], 15), (&nodes[0], 12)]);
    let trusted = policy.check(&enough).unwrap();
    assert_eq!(trusted.unix_s, 15);
    assert_eq!(trusted.signers.len(), 3);
}

#[test]
fn unknown_keys_are_skipped_and_known_ones_must_be_right() {
    let (policy, nodes) = majority_of(3);
    let mut good = signed(&[(&nodes[0], 1), (&nodes[1], 2)]);
    good.signatures.push(witness(1).cosign(&checkpoint(), 3));
    // A type that we do not know, and a known name with another key.
    good.signatures.push(NoteSignature {
        name: "pq".into(),
        key_id: [6; 4],
        signature: vec![1; 2428],
    });
    let namesake =
        SignerKey::new(nodes[2].verifier().name.clone(), KeyType::Cosigner, [9; 32]).unwrap();
    good.signatures.push(namesake.cosign(&checkpoint(), 4));
    assert_eq!(policy.check(&good).unwrap().signers.len(), 3);
    // The third node's signature is not needed, yet must not be wrong.
    let mut wrong = nodes[2].cosign(&checkpoint(), 5);
    wrong.signature[20] ^= 1;
    good.signatures.push(wrong);
    let name = nodes[2].verifier().name.clone();
    let refused = PolicyError::Signature { name, source: SignatureError::Wrong };
    assert_eq!(policy.check(&good), Err(refused));
}

#[test]
fn checkpoints_of_other_trails_are_refused() {
    let (policy, nodes) = majority_of(1);
    let other = Checkpoint::new("other.example", 5, Hash([5; 32]));
    // Signed by all the right keys.
    let signatures = vec![log_key().sign(&other), nodes[0].cosign(&other, 1)];
    let refused = policy.check(&Note { text: other.to_string(), signatures: signatures.clone() });
    assert!(matches!(refused, Err(PolicyError::Origin { .. })), "{refused:?}");
    let refused = policy.check(&Note { text: "no checkpoint\n".into(), signatures });
    assert!(matches!(refused, Err(PolicyError::Checkpoint(_))), "{refused:?}");
}

/// By definition: the newest time t such that the cosignatures with a time of t or later satisfy
/// the quorum.
#[test]
fn the_time_of_a_quorum() {
    let (policy, nodes) = majority_of(5);
    let mut rng = seeded();
    for _ in 0..50 {
        let signing = rng.random_range(3..=5);
        let mut order: Vec<usize> = (0..5).collect();
        order.shuffle(&mut rng);
        let times = [0, 1, TIME, TIME + 1, i64::MAX as u64];
        let cosigners: Vec<_> = order[..signing]
            .iter()
            .map(|n| (&nodes[*n], times[rng.random_range(0..times.len())]))
            .collect();
        let enough = |t: u64| {
            let since: Vec<_> = cosigners.iter().copied().filter(|(_, time)| *time >= t).collect();
            policy.check(&signed(&since)).is_ok()
        };
        let expected = times.into_iter().filter(|t| enough(*t)).max().unwrap();
        assert_eq!(policy.check(&signed(&cosigners)).unwrap().unix_s, expected);
    }
}

fn two_of_three_and_one_of_two() -> (Policy, Vec<SignerKey>, Vec<SignerKey>) {
    let (policy, nodes) = majority_of(3);
    let witnesses = vec![witness(1), witness(2)];
    let named = witnesses.iter().map(|key| Witness {
        name: key.verifier().name.clone(),
        key: key.verifier().clone(),
        url: Some(format!("https://{}/", key.verifier().name)),
    });
    (policy.with_witnesses(named.collect(), 1).unwrap(), nodes, witnesses)
}

#[test]
fn two_of_three_nodes_and_one_of_two_witnesses() {
    let (policy, nodes, witnesses) = two_of_three_and_one_of_two();
    let text = policy.to_string();
    assert_eq!(text.parse::<Policy>().unwrap(), policy);
    assert!(text.contains("group nodes 2 "), "{text}");
    assert!(text.contains("group witnesses any w1.example w2.example\n"), "{text}");
    assert!(
        text.ends_with(
            "group nodes-and-witnesses all nodes witnesses\nquorum nodes-and-witnesses\n"
        )
    );
    assert_eq!(policy.witnesses().filter(|witness| witness.url.is_some()).count(), 2);
    for bits in 0..32u32 {
        let all = nodes.iter().chain(&witnesses).enumerate();
        let cosigners: Vec<_> = all
            .filter(|(n, _)| bits >> n & 1 == 1)
            .map(|(n, key)| (key, 10 * (n as u64 + 1)))
            .collect();
        let expected = (bits & 7).count_ones() >= 2 && bits >> 3 != 0;
        let believed = policy.check(&signed(&cosigners));
        assert_eq!(believed.is_ok(), expected, "{bits:05b}");
        if let Ok(trusted) = believed {
            // The witnesses are later than the nodes; the second newest node decides.
            let mut nodes: Vec<u64> = (0..3).filter(|n| bits >> n & 1 == 1).collect();
            nodes.pop();
            assert_eq!(trusted.unix_s, 10 * (nodes.pop().unwrap() + 1), "{bits:05b}");
        }
    }
}

#[test]
fn no_quorum_at_all_gives_no_time() {
    let policy: Policy = format!("log {LOG_KEY}\nquorum none\n").parse().unwrap();
    let trusted = policy.check(&signed(&[(&cosigner(1), TIME)])).unwrap();
    assert_eq!((trusted.unix_s, trusted.signers.len()), (0, 1));
    assert!(matches!(policy.with_witnesses(Vec::new(), 0), Err(PolicyFault::Threshold { .. })));
}

#[test]
fn comments_blanks_and_urls() {
    let text = format!(
        "# Of the example\n\n  \t# indented\n\tlog\t{LOG_KEY}  https://a.example/ \n \nwitness ünï {WITNESS_KEY} https://w.example\n\
         group g 1 ünï\nquorum g\n# the end\n"
    );
    let policy: Policy = text.parse().unwrap();
    assert_eq!(policy.logs()[0].url.as_deref(), Some("https://a.example/"));
    assert_eq!(policy.witnesses().next().unwrap().url.as_deref(), Some("https://w.example"));
    assert_eq!(policy.to_string().parse::<Policy>().unwrap(), policy);
}

#[test]
fn a_log_may_have_several_keys() {
    let second = SignerKey::new(ORIGIN, KeyType::Log, [50; 32]).unwrap();
    let text = format!("log {LOG_KEY}\nlog {}\nquorum none\n", second.verifier());
    let policy: Policy = text.parse().unwrap();
    policy.check(&note(vec![second.sign(&checkpoint())])).unwrap();
    policy.check(&note(vec![log_key().sign(&checkpoint())])).unwrap();
    let other = SignerKey::new("b", KeyType::Log, [50; 32]).unwrap();
    let text = format!("log {LOG_KEY}\nlog {}\nquorum none\n", other.verifier());
    assert!(matches!(fault(&text), (2, PolicyFault::TwoOrigins { .. })));
}

/// What a policy must not say, and in which line it says so.
#[test]
fn what_is_nearly_a_policy() {
    let head = format!("log {LOG_KEY}\nwitness w1 {WITNESS_KEY}\n");
    let other = witness(1).verifier().to_string();
    let after = |rest: &str| fault(&format!("{head}{rest}"));
    assert_eq!(fault(""), (0, PolicyFault::NoLog));
    assert_eq!(fault("quorum none\n"), (0, PolicyFault::NoLog));
    assert_eq!(fault(&head), (0, PolicyFault::NoQuorum));
    assert_eq!(after("quorum w1"), (0, PolicyFault::Cut));
    assert_eq!(after("quorum w1\r\n"), (3, PolicyFault::Control { character: '\r' }));
    assert_eq!(after("# \u{7f}\n"), (3, PolicyFault::Control { character: '\u{7f}' }));
    assert_eq!(after("quorum w1\nquorum w1\n"), (4, PolicyFault::TwoQuorums));
    assert_eq!(after("quorum w2\n"), (3, PolicyFault::UnknownName { name: "w2".into() }));
    assert_eq!(after("Quorum w1\n"), (3, PolicyFault::Keyword { word: "Quorum".into() }));
    for bad in ["log", "quorum", "quorum a b", "witness w2", "group g all", "group g"] {
        let expected =
            |fault| matches!(fault, (3, PolicyFault::Form { .. } | PolicyFault::Threshold { .. }));
        assert!(expected(after(&format!("{bad}\n"))), "{bad}");
    }
    // Names.
    assert_eq!(
        after(&format!("witness w1 {other}\n")),
        (3, PolicyFault::NameTaken { name: "w1".into() })
    );
    assert_eq!(
        after(&format!("witness none {other}\n")),
        (3, PolicyFault::NameTaken { name: "none".into() })
    );
    assert_eq!(after("group w1 all w1\n"), (3, PolicyFault::NameTaken { name: "w1".into() }));
    // Keys.
    assert!(matches!(
        after(&format!("witness w2 {WITNESS_KEY}\n")),
        (3, PolicyFault::KeyTwice { .. })
    ));
    assert!(matches!(after(&format!("log {LOG_KEY}\n")), (3, PolicyFault::KeyTwice { .. })));
    assert!(matches!(after(&format!("log {other}\n")), (3, PolicyFault::KeyType { .. })));
    let mut same = SignerKey::new("x", KeyType::Cosigner, [1; 32]).unwrap().verifier().clone();
    same.public_key = log_key().verifier().public_key;
    assert!(matches!(after(&format!("witness w2 {same}\n")), (3, PolicyFault::KeyTwice { .. })));
    assert!(matches!(after("witness w2 nonsense\n"), (3, PolicyFault::Key(_))));
    // Groups: cycles cannot be written, as members stand above.
    assert_eq!(after("group g all g\n"), (3, PolicyFault::UnknownName { name: "g".into() }));
    assert_eq!(
        after("group g all h\ngroup h all g\n"),
        (3, PolicyFault::UnknownName { name: "h".into() })
    );
    assert_eq!(after("group g all w1 w1\n"), (3, PolicyFault::MemberTwice { name: "w1".into() }));
    assert_eq!(
        after("group g all w1\ngroup h all w1\n"),
        (4, PolicyFault::MemberTwice { name: "w1".into() })
    );
    assert_eq!(after("group g all none\n"), (3, PolicyFault::UnknownName { name: "none".into() }));
    for threshold in ["0", "2", "18446744073709551615"] {
        assert!(matches!(
            after(&format!("group g {threshold} w1\n")),
            (3, PolicyFault::Threshold { .. })
        ));
    }
    for threshold in ["01", "-1", "most", "18446744073709551616"] {
        assert!(matches!(
            after(&format!("group g {threshold} w1\n")),
            (3, PolicyFault::Form { .. })
        ));
    }
}

#[test]
fn policies_have_limits() {
    let head = format!("log {LOG_KEY}\nwitness w1 {WITNESS_KEY}\n");
    // As deep as the number of names allows.
    let chain = |depth: usize| {
        let mut text = format!("{head}group g0 all w1\n");
        for n in 1..depth {
            text += &format!("group g{n} all g{}\n", n - 1);
        }
        text + &format!("quorum g{}\n", depth - 1)
    };
    let deep: Policy = chain(POLICY_NAMES_MAX - 2).parse().unwrap();
    let checkpoint_note = Note::parse(CHECKPOINT_NOTE).unwrap();
    assert_eq!(deep.check(&checkpoint_note).unwrap().unix_s, TIME);
    assert_eq!(fault(&chain(POLICY_NAMES_MAX - 1)).1, PolicyFault::TooManyNames);
    let large = format!("{head}# {}\n", "x".repeat(POLICY_BYTES_MAX));
    assert!(matches!(fault(&large), (0, PolicyFault::TooLarge { .. })));
}

#[test]
fn a_quorum_that_no_note_can_reach_is_refused() {
    let log = log_key().verifier().clone();
    let nodes = |count: usize| -> Vec<VerifierKey> {
        (0..count)
            .map(|n| {
                let seed = std::array::from_fn(|byte| (n >> (8 * (byte % 2))) as u8);
                SignerKey::new(format!("n{n}"), KeyType::Cosigner, seed).unwrap().verifier().clone()
            })
            .collect()
    };
    // 125 nodes have a majority of 63, with the log's signature 64.
    Policy::majority(log.clone(), nodes(125)).unwrap();
    let refused = Policy::majority(log.clone(), nodes(126));
    assert_eq!(refused, Err(PolicyFault::TooManySignatures { needed: NOTE_SIGNATURES_MAX + 1 }));
    assert!(matches!(
        Policy::majority(log.clone(), Vec::new()),
        Err(PolicyFault::Threshold { .. })
    ));
    let twice = [nodes(1), nodes(1)].concat();
    assert!(matches!(Policy::majority(log, twice), Err(PolicyFault::NameTaken { .. })));
}

/// Also what no file could say: a policy that is made is one that can be written and read.
#[test]
fn policies_are_made_of_words() {
    let with = |name: &str, url: &str, key: VerifierKey| {
        let witness = Witness { name: name.into(), key, url: Some(url.into()) };
        majority_of(1).0.with_witnesses(vec![witness], 1)
    };
    let key = || witness(1).verifier().clone();
    let made = with("#1", "https://w.example/", key()).unwrap();
    assert_eq!(made.to_string().parse::<Policy>().unwrap(), made);
    for bad in ["", "a b", "a\tb", "a\nquorum none", "a\u{7f}"] {
        assert!(matches!(with(bad, "u", key()), Err(PolicyFault::Word { .. })), "{bad:?}");
        assert!(matches!(with("w", bad, key()), Err(PolicyFault::Word { .. })), "{bad:?}");
        let bad = VerifierKey { name: bad.to_owned(), ..key() };
        let refused = with("w", "u", bad);
        assert!(matches!(refused, Err(PolicyFault::Key(_) | PolicyFault::Word { .. })));
    }
    let weak = VerifierKey { public_key: [0; 32], ..key() };
    assert!(matches!(with("w", "u", weak), Err(PolicyFault::Key(_))));
}

#[test]
fn messages_are_for_people() {
    let (policy, nodes) = majority_of(3);
    let message = policy.check(&signed(&[(&nodes[0], 1)])).unwrap_err().to_string();
    assert_eq!(
        message,
        "quorum nodes is not reached: signed by audit.example.com/t1/node/1, \
         not by audit.example.com/t1/node/2, audit.example.com/t1/node/3"
    );
    let error = format!("log {LOG_KEY}\nquorum all\n").parse::<Policy>().unwrap_err().to_string();
    assert_eq!(error, "policy, line 2: \"all\" is not defined above this line");
}

#[test]
fn a_policy_follows_its_nodes_and_keeps_what_it_asks_for() {
    let keys = |ids: &[u8]| -> Vec<VerifierKey> {
        ids.iter().map(|id| cosigner(*id).verifier().clone()).collect()
    };
    let w = |number: u8| {
        let key = witness(number).verifier().clone();
        Witness { name: key.name.clone(), key, url: Some("https://w.example".into()) }
    };
    let (majority, _) = majority_of(3);
    assert!(majority.has_nodes(&keys(&[3, 2, 1])));
    assert!(!majority.has_nodes(&keys(&[1, 2])) && !majority.has_nodes(&keys(&[1, 2, 4])));
    for count in 1..=7u8 {
        let ids: Vec<u8> = (2..2 + count).collect();
        let followed = majority.with_nodes(keys(&ids)).unwrap();
        let log = log_key().verifier().clone();
        assert_eq!(followed, Policy::majority(log, keys(&ids)).unwrap());
        assert_eq!(followed.with_nodes(keys(&[1, 2, 3])).unwrap(), majority);
    }
    // What is outside the group stays, in names, numbers and places.
    let witnessed = majority.clone().with_witnesses(vec![w(1), w(2)], 1).unwrap();
    let followed = witnessed.with_nodes(keys(&[2, 3, 4, 5])).unwrap();
    assert_eq!(followed.to_string().parse::<Policy>().unwrap(), followed);
    let (n, o) = ([2, 3, 4, 5].map(cosigner), [witness(1), witness(2)]);
    let by = |nodes: usize, witnesses: usize| {
        let cosigners = n[..nodes].iter().chain(&o[..witnesses]).map(|key| (key, TIME));
        followed.check(&signed(&cosigners.collect::<Vec<_>>())).is_ok()
    };
    assert_eq!([by(3, 1), by(3, 0), by(2, 2), by(4, 2)], [true, false, false, true]);
    // All of three are all of four, and a node is still called what its author calls it.
    let text = |ids: &[u8], threshold: &str| {
        let named = |id: &u8| format!("witness n{id} {}\n", cosigner(*id).verifier());
        let names: String = ids.iter().map(|id| format!(" n{id}")).collect();
        let nodes: String = ids.iter().map(named).collect();
        format!("log {LOG_KEY}\n{nodes}group g {threshold}{names}\nquorum g\n")
    };
    let all: Policy = text(&[1, 2, 3], "all").parse().unwrap();
    let followed = all.with_nodes(keys(&[1, 2, 3, 4])).unwrap();
    let fourth = crate::node_key_name(ORIGIN, 4);
    assert_eq!(followed.to_string(), text(&[1, 2, 3, 4], "all").replace("n4", &fourth));
    assert_eq!(followed.with_nodes(keys(&[1, 2, 3])).unwrap(), all);
    // Whether all are meant by that of two, nobody can tell any more.
    assert!(all.asks_for_all_nodes() && !majority.asks_for_all_nodes());
    assert!(!all.with_nodes(keys(&[1, 2])).unwrap().asks_for_all_nodes());
    // What only its author can tell.
    let any: Policy = text(&[1, 2, 3], "any").parse().unwrap();
    let error = any.with_nodes(keys(&[1, 2])).unwrap_err();
    assert!(matches!(error, NodesError::Threshold { threshold: 1, count: 3, .. }), "{error}");
    let mixed = text(&[1, 2], "2").replace(
        "group g 2 n1 n2",
        &format!("witness w {}\ngroup g 2 n1 n2 w", witness(1).verifier()),
    );
    let mixed: Policy = mixed.parse().unwrap();
    assert_eq!(mixed.with_nodes(keys(&[1, 2])), Err(NodesError::NoGroup));
    assert_eq!(
        majority.with_nodes(vec![]),
        Err(NodesError::Policy(PolicyFault::Threshold {
            name: "nodes".into(),
            threshold: 1,
            count: 0
        }))
    );
    // A policy of witnesses alone has nothing to follow.
    let outside: Policy =
        format!("log {LOG_KEY}\nwitness w {}\nquorum w\n", witness(1).verifier()).parse().unwrap();
    assert_eq!(outside.with_nodes(keys(&[1])), Ok(outside.clone()));
}
