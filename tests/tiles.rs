//! The public log, read by a walker that shares no code with the program, and by software that is
//! not ours.

use std::collections::BTreeMap;

use indelible_client::ProducerId;
use indelible_local::LocalCluster;
use sha2::{Digest, Sha256};

use crate::harness::{client, nodes_with, note, policy, three_nodes};
use crate::http::{Answer, get};

type Hash = [u8; 32];

fn leaf_hash(leaf: &[u8]) -> Hash {
    Sha256::new().chain_update([0]).chain_update(leaf).finalize().into()
}

/// `MTH` of RFC 6962 section 2.1, as the RFC has it, over leaf hashes.
fn root(hashes: &[Hash]) -> Hash {
    match hashes {
        [] => Sha256::digest([]).into(),
        [hash] => *hash,
        _ => {
            let mut half = 1;
            while half * 2 < hashes.len() {
                half *= 2;
            }
            let (left, right) = (root(&hashes[..half]), root(&hashes[half..]));
            Sha256::new().chain_update([1]).chain_update(left).chain_update(right).finalize().into()
        }
    }
}

/// `<L>/<N>[.p/<W>]` for tiles below a million.
fn path(level: &str, index: usize, width: usize) -> String {
    let number = match index {
        0..1000 => format!("{index:03}"),
        _ => format!("x{:03}/{:03}", index / 1000, index % 1000),
    };
    let partial = if width < 256 { format!(".p/{width}") } else { String::new() };
    format!("/tile/{level}/{number}{partial}")
}

/// Origin, size and root that a note names.
fn checkpoint(note: &str) -> (String, usize, String) {
    let lines: Vec<&str> = note.lines().collect();
    (lines[0].to_owned(), lines[1].parse().unwrap(), lines[2].to_owned())
}

fn base64(bytes: &[u8]) -> String {
    use base64::Engine as _;
    base64::engine::general_purpose::STANDARD.encode(bytes)
}

fn immutable(answer: &Answer, path: &str) -> Vec<u8> {
    assert_eq!(answer.status, 200, "{path}: {}", answer.text());
    assert_eq!(answer.header("content-type"), "application/octet-stream", "{path}");
    assert!(answer.header("cache-control").contains("immutable"), "{path}");
    answer.body.clone()
}

/// Fetches every tile and bundle of a tree of `size` leaves and recomputes its root, and every hash
/// in every tile, from the leaves.
fn walk(addr: &str, size: usize) -> Hash {
    let mut below: Vec<Hash> = Vec::new();
    for index in 0..size.div_ceil(256) {
        let width = (size - 256 * index).min(256);
        let path = path("entries", index, width);
        let mut rest = &immutable(&get(addr, &path), &path)[..];
        for _ in 0..width {
            let (length, after) = rest.split_at(2);
            assert_eq!(length, [0, 64], "an entry is a leaf of 64 bytes");
            let (leaf, after) = after.split_at(64);
            below.push(leaf_hash(leaf));
            rest = after;
        }
        assert!(rest.is_empty(), "{path} has more than {width} entries");
    }
    let found = root(&below);
    for level in 0.. {
        if below.is_empty() {
            break;
        }
        let mut hashes: Vec<Hash> = Vec::new();
        for index in 0..below.len().div_ceil(256) {
            let width = (below.len() - 256 * index).min(256);
            let path = path(&level.to_string(), index, width);
            let tile = immutable(&get(addr, &path), &path);
            assert_eq!(tile.len(), 32 * width, "{path}");
            hashes.extend(tile.as_chunks::<32>().0);
        }
        assert_eq!(hashes, below, "level {level} of a tree of {size} leaves");
        below = hashes.chunks_exact(256).map(root).collect();
    }
    found
}

fn public_cluster() -> LocalCluster {
    nodes_with(3, Some(128 * 1024), "[http]\npublic_entries = true\n")
}

/// Tiles of every size that was ever published, from every node, give the root that was signed.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn tiles_of_every_published_size_give_its_root() {
    let cluster = public_cluster();
    let sdk = client(&cluster).await;
    let producer = sdk.producer(ProducerId(*b"tiles, published"), "t").open().await.unwrap();
    let mut published: BTreeMap<usize, String> = BTreeMap::new();
    let mut next = 0;
    for (round, count) in [1, 3, 40, 200, 7, 256, 90].into_iter().enumerate() {
        let events = (next..next + count).map(indelible::cli::generate::event);
        let receipts = producer.append_bulk(events).await.unwrap();
        next += count;
        let node = &cluster.nodes[round % 3];
        note(&node.client_addr, receipts.tree_size()).await;
        let answer = get(&node.probe_addr, "/checkpoint");
        assert_eq!(answer.status, 200, "{}", answer.text());
        assert_eq!(answer.header("content-type"), "text/plain; charset=utf-8");
        assert!(!answer.header("cache-control").contains("immutable"));
        let (_, size, root) = checkpoint(&answer.text());
        assert!(size as u64 >= receipts.tree_size());
        published.insert(size, root);
    }
    let largest = *published.keys().last().unwrap();
    assert!(largest > 580 && published.len() >= 6, "{published:?}");
    for node in &cluster.nodes {
        note(&node.client_addr, largest as u64).await;
        for (size, root) in &published {
            assert_eq!(
                base64(&walk(&node.probe_addr, *size)),
                *root,
                "size {size}, node {}",
                node.id
            );
        }
    }
}

/// What is not there, what makes no sense, and what is not for everybody.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn other_paths_are_refused() {
    let cluster = three_nodes();
    let sdk = client(&cluster).await;
    let producer = sdk.producer(ProducerId(*b"tiles, elsewhere"), "t").open().await.unwrap();
    let receipt = producer.append(indelible::cli::generate::event(1)).await.unwrap();
    let node = &cluster.nodes[0];
    let size = checkpoint(&note(&node.client_addr, receipt.index + 1).await).1;
    let get = |path: &str| get(&node.probe_addr, path);
    assert_eq!(get(&path("0", 0, size)).status, 200);
    for beyond in ["/tile/0/000", "/tile/0/000.p/255", "/tile/1/000.p/1", "/tile/0/x001/000"] {
        let answer = get(beyond);
        assert_eq!(answer.status, 404, "{beyond}: {}", answer.text());
        assert!(answer.header("cache-control").contains("no-store"), "{beyond}");
    }
    for malformed in [
        "/tile/0/0",
        "/tile/0/000.p/0",
        "/tile/0/000.p/256",
        "/tile/00/000",
        "/tile/64/000",
        "/tile/0/001/000",
        "/tile/0/%3000",
        "/tile/entries/x000/001",
        "/tile/events/000",
        "/tile/0/000/",
    ] {
        let answer = get(malformed);
        assert_eq!(answer.status, 400, "{malformed}: {}", answer.text());
    }
    let guarded = get(&path("entries", 0, size));
    assert_eq!(guarded.status, 403);
    assert!(guarded.text().contains("public_entries = true"), "{}", guarded.text());
    assert_eq!(
        get("/checkpoint?witnessed").status,
        200,
        "the cosigned one, as there is no witness"
    );
}

/// A bit of a tree file flips while the node runs: the tile is refused and never served, and the
/// other nodes go on.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_damaged_tile_is_not_served() {
    // A scrub would mend it at some moment.
    let config = "[http]\npublic_entries = true\n[storage]\nscrub_bytes_per_s = 0\n";
    let mut cluster = nodes_with(3, Some(128 * 1024), config);
    let sdk = client(&cluster).await;
    let producer = sdk.producer(ProducerId(*b"tiles, a bit off"), "t").open().await.unwrap();
    let events = (0..300).map(indelible::cli::generate::event);
    let size = producer.append_bulk(events).await.unwrap().tree_size();
    // Closing writes the tree out; afterwards it is read from the file.
    let victim = &mut cluster.nodes[2];
    note(&victim.client_addr, size).await;
    assert!(victim.stop().unwrap().success());
    victim.start().unwrap();
    let victim = &cluster.nodes[2];
    note(&victim.client_addr, size).await;
    let tile = path("0", 0, 256);
    let whole = immutable(&get(&victim.probe_addr, &tile), &tile);
    let file = victim.data_dir.join("derived/tree/00");
    let mut bytes = std::fs::read(&file).unwrap();
    bytes[32 * 77] ^= 4;
    std::fs::write(&file, &bytes).unwrap();
    for path in [&tile, &path("entries", 0, 256)] {
        let answer = get(&victim.probe_addr, path);
        assert_eq!(answer.status, 500, "{path}");
        assert!(answer.text().contains("another node"), "{}", answer.text());
    }
    let metrics = get(&victim.probe_addr, "/metrics").text();
    assert!(metrics.contains("indelible_rejections_total{reason=\"DAMAGED\"} 2"), "{metrics}");
    assert!(victim.log_text().contains("cannot read the trail"));
    for node in &cluster.nodes[..2] {
        assert_eq!(immutable(&get(&node.probe_addr, &tile), &tile), whole);
    }
    bytes[32 * 77] ^= 4;
    std::fs::write(&file, &bytes).unwrap();
    assert_eq!(immutable(&get(&victim.probe_addr, &tile), &tile), whole);
}

/// Tiles over HTTP for Cloudflare's crate.
struct HttpTiles<'a>(&'a str);

impl tlog_tiles::TileReader for HttpTiles<'_> {
    fn height(&self) -> u8 {
        8
    }

    fn read_tiles(&self, tiles: &[tlog_tiles::Tile]) -> Result<Vec<Vec<u8>>, tlog_tiles::Error> {
        // Its paths are those of Go's sumdb: the height comes first.
        let path = |tile: &tlog_tiles::Tile| tile.path().replace("tile/8/", "/tile/");
        Ok(tiles.iter().map(|tile| immutable(&get(self.0, &path(tile)), &path(tile))).collect())
    }

    fn save_tiles(&self, _tiles: &[tlog_tiles::Tile], _data: &[Vec<u8>]) {}
}

/// The crates `signed_note` and `tlog_tiles` accept checkpoint, tiles and proofs.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn software_of_others_verifies_the_log() {
    use signed_note::{Note, StandardVerifier, VerifierList};
    use tlog_tiles::{
        HashReader, TileHashReader, check_record, check_tree, prove_record, prove_tree,
        record_hash, stored_hash_index, tree_hash,
    };
    let cluster = public_cluster();
    let sdk = client(&cluster).await;
    let producer = sdk.producer(ProducerId(*b"tiles for others"), "t").open().await.unwrap();
    let mut older = None;
    for first in [0, 300] {
        let events = (first..first + 300).map(indelible::cli::generate::event);
        let receipts = producer.append_bulk(events).await.unwrap();
        let node = &cluster.nodes[1];
        note(&node.client_addr, receipts.tree_size()).await;
        let note = Note::from_bytes(&get(&node.probe_addr, "/checkpoint").body).unwrap();
        let key = policy(&cluster).logs()[0].key.to_string();
        let known = VerifierList::new(vec![Box::new(StandardVerifier::new(&key).unwrap())]);
        let (verified, others) = note.verify(&known).unwrap();
        assert_eq!(verified.len(), 1, "the log's signature");
        assert!(others.len() >= 2, "the cosignatures of a majority");
        let checkpoint = tlog_tiles::Checkpoint::from_bytes(note.text()).unwrap();
        let (size, root) = (checkpoint.size(), *checkpoint.hash());
        assert_eq!(checkpoint.extension(), "");

        let tiles = HttpTiles(&node.probe_addr);
        let reader = TileHashReader::new(size, root, &tiles);
        assert_eq!(tree_hash(size, &reader).unwrap(), root);
        let leaves: Vec<u64> = (0..size).map(|leaf| stored_hash_index(0, leaf)).collect();
        let hashes = reader.read_hashes(&leaves).unwrap();
        for receipt in (0..receipts.count()).step_by(61).filter_map(|at| receipts.get(at)) {
            let hash = record_hash(&receipt.leaf.encode());
            assert_eq!(hashes[receipt.index as usize], hash);
            let proof = prove_record(size, receipt.index, &reader).unwrap();
            check_record(&proof, size, root, receipt.index, hash).unwrap();
        }
        if let Some((older, older_root)) = older {
            let proof = prove_tree(size, older, &reader).unwrap();
            check_tree(&proof, size, root, older, older_root).unwrap();
        }
        older = Some((size, root));
    }
}
