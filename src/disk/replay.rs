//! Rebuilds from a recorded run the directory that a crash could have left.
//!
//! The model: bytes and length of a file are durable after a sync of the file, names after a sync
//! of their directory. Whatever is not durable is either all there or not at all, and the last
//! write may have been cut at any byte. That this covers what a file system may do rests on a
//! property which [`rebuild`] asserts: at no time does more than one file have something that is
//! not durable.

use std::collections::BTreeMap;
use std::path::Path;

use super::recorder::{Event, Op};

/// What happens to what is not durable.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Unsynced {
    Kept,
    Dropped,
}

/// How the last operation, a write, was cut.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Torn {
    /// Its first bytes are there, the rest is as before.
    After(usize),
    /// Its first bytes are there, and the file ends with them.
    FileEnds(usize),
}

#[derive(Debug, Default, Clone)]
struct Inode {
    bytes: Vec<u8>,
    durable: Vec<u8>,
}

impl Inode {
    fn write(&mut self, offset: u64, bytes: &[u8]) {
        let end = offset as usize + bytes.len();
        self.bytes.resize(self.bytes.len().max(end), 0);
        self.bytes[offset as usize..end].copy_from_slice(bytes);
    }
}

/// A file, or a directory (none).
type Node = Option<usize>;

#[derive(Debug, Default)]
struct Model {
    inodes: Vec<Inode>,
    names: BTreeMap<String, Node>,
    durable_names: BTreeMap<String, Node>,
}

impl Model {
    /// Takes over a directory, as durable.
    fn load(&mut self, path: &Path, name: &str) {
        for entry in std::fs::read_dir(path).unwrap() {
            let path = entry.unwrap().path();
            let name = join(name, path.file_name().unwrap().to_str().unwrap());
            let mut node = None;
            if path.is_dir() {
                self.load(&path, &name);
            } else {
                let bytes = std::fs::read(&path).unwrap();
                self.inodes.push(Inode { durable: bytes.clone(), bytes });
                node = Some(self.inodes.len() - 1);
            }
            self.names.insert(name.clone(), node);
            self.durable_names.insert(name, node);
        }
    }

    fn apply(&mut self, event: &Event) {
        let path = |name: &str| join(&event.name, name);
        match &event.op {
            Op::Create { name } => {
                self.inodes.push(Inode::default());
                self.names.insert(path(name), Some(self.inodes.len() - 1));
            }
            Op::MakeDir { name } => {
                self.names.insert(path(name), None);
            }
            Op::Write { offset, bytes } => self.file(&event.name).write(*offset, bytes),
            Op::Allocate { length } => {
                let bytes = &mut self.file(&event.name).bytes;
                bytes.resize(bytes.len().max(*length as usize), 0);
            }
            Op::SetLength { length } => self.file(&event.name).bytes.resize(*length as usize, 0),
            Op::Sync => {
                let inode = self.file(&event.name);
                inode.durable = inode.bytes.clone();
            }
            Op::Rename { from, to } => {
                let node = self.names.remove(&path(from)).unwrap();
                self.names.insert(path(to), node);
            }
            Op::Link { name, to } => {
                let node = self.names[&path(name)];
                self.names.insert(to.clone(), node);
            }
            Op::Remove { name } => {
                self.names.remove(&path(name)).unwrap();
            }
            Op::SyncDir => {
                let below = |name: &String| parent(name) == event.name;
                self.durable_names.retain(|name, _| !below(name));
                let names = self.names.iter().filter(|(name, _)| below(name));
                self.durable_names.extend(names.map(|(name, node)| (name.clone(), *node)));
            }
            Op::Note(_) => {}
        }
    }

    fn tear(&mut self, event: &Event, torn: Torn) {
        let Op::Write { offset, bytes } = &event.op else { panic!("only writes are torn") };
        let inode = self.file(&event.name);
        let (Torn::After(count) | Torn::FileEnds(count)) = torn;
        let end = *offset as usize + bytes.len();
        inode.bytes.resize(inode.bytes.len().max(end), 0); // a new length may get there first
        inode.write(*offset, &bytes[..count]);
        if let Torn::FileEnds(_) = torn {
            inode.bytes.truncate(*offset as usize + count);
        }
    }

    fn file(&mut self, name: &str) -> &mut Inode {
        let node = self.names.get(name).unwrap_or_else(|| panic!("no file {name}"));
        &mut self.inodes[node.expect("a file")]
    }
}

/// Makes in `target`, an empty directory, what is there after `events` in a directory like `base`
/// and a crash. With `torn`, the last event is a write.
pub(crate) fn rebuild(
    base: Option<&Path>,
    events: &[Event],
    data: Unsynced,
    names: Unsynced,
    torn: Option<Torn>,
    target: &Path,
) {
    let mut model = Model::default();
    if let Some(base) = base {
        model.load(base, "");
    }
    let (last, before) = events.split_last().expect("something was recorded");
    for event in before {
        model.apply(event);
        let dirty = model.inodes.iter().filter(|inode| inode.bytes != inode.durable).count();
        assert!(dirty <= 1, "{dirty} files are not durable after {event:?}");
    }
    match torn {
        None => model.apply(last),
        Some(torn) => model.tear(last, torn),
    }
    let tree = if names == Unsynced::Kept { &model.names } else { &model.durable_names };
    for (name, node) in tree {
        let path = target.join(name);
        match node.map(|node| &model.inodes[node]) {
            None => std::fs::create_dir(path).unwrap(),
            // A name may be durable when that of its directory is not.
            Some(_) if !path.parent().unwrap().exists() => {}
            Some(inode) if data == Unsynced::Kept => std::fs::write(path, &inode.bytes).unwrap(),
            Some(inode) => std::fs::write(path, &inode.durable).unwrap(),
        }
    }
}

fn join(dir: &str, name: &str) -> String {
    if dir.is_empty() { name.into() } else { format!("{dir}/{name}") }
}

fn parent(path: &str) -> &str {
    path.rsplit_once('/').map_or("", |(dir, _)| dir)
}
