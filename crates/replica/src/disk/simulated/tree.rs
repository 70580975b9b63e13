//! The directories of the simulated disk: durable names, and unsynced changes of names.

use std::collections::BTreeMap;
use std::io::{self, ErrorKind};
use std::path::{Component, Path};

use super::content::FileContent;
use super::{CrashPolicy, Survival};

/// The number of a file or directory; names refer to it.
pub(super) type NodeId = usize;

type Names = BTreeMap<String, NodeId>;

#[derive(Clone, Debug)]
enum Node {
    Directory(Directory),
    File(FileContent),
}

#[derive(Clone, Debug, Default)]
struct Directory {
    durable: Names,
    live: Names,
    unsynced: Vec<Change>,
}

/// A change of names that no `sync_dir` has covered yet.
#[derive(Clone, Debug)]
enum Change {
    Link(String, NodeId),
    Unlink(String),
    Rename { from: String, to: String, node: NodeId },
}

impl Change {
    fn apply(&self, names: &mut Names) {
        match self {
            Change::Link(name, node) => {
                names.insert(name.clone(), *node);
            }
            Change::Unlink(name) => {
                names.remove(name);
            }
            Change::Rename { from, to, node } => {
                names.remove(from);
                names.insert(to.clone(), *node);
            }
        }
    }
}

/// All nodes; number 0 is the root directory.
#[derive(Clone, Debug)]
pub(super) struct Tree {
    nodes: Vec<Node>,
}

impl Default for Tree {
    fn default() -> Tree {
        Tree { nodes: vec![Node::Directory(Directory::default())] }
    }
}

impl Tree {
    fn dir(&self, node: NodeId) -> io::Result<&Directory> {
        match &self.nodes[node] {
            Node::Directory(dir) => Ok(dir),
            Node::File(_) => Err(ErrorKind::NotADirectory.into()),
        }
    }

    fn dir_mut(&mut self, node: NodeId) -> io::Result<&mut Directory> {
        match &mut self.nodes[node] {
            Node::Directory(dir) => Ok(dir),
            Node::File(_) => Err(ErrorKind::NotADirectory.into()),
        }
    }

    fn change(&mut self, dir: NodeId, change: Change) -> io::Result<()> {
        let dir = self.dir_mut(dir)?;
        change.apply(&mut dir.live);
        dir.unsynced.push(change);
        Ok(())
    }

    fn add(&mut self, dir: NodeId, name: &str, node: Node) -> io::Result<NodeId> {
        self.nodes.push(node);
        let id = self.nodes.len() - 1;
        self.change(dir, Change::Link(name.to_owned(), id))?;
        Ok(id)
    }

    /// Adds a directory whose name is durable at once.
    fn add_dir(&mut self, dir: NodeId, name: &str) -> io::Result<NodeId> {
        self.nodes.push(Node::Directory(Directory::default()));
        let id = self.nodes.len() - 1;
        let dir = self.dir_mut(dir)?;
        dir.live.insert(name.to_owned(), id);
        dir.durable.insert(name.to_owned(), id);
        Ok(id)
    }

    fn find(&self, path: &Path) -> io::Result<NodeId> {
        names(path)?.iter().try_fold(0, |at, name| {
            let found = self.dir(at)?.live.get(name);
            found.copied().ok_or_else(|| ErrorKind::NotFound.into())
        })
    }

    /// The directory that a path lies in, and the last name of the path.
    fn parent(&self, path: &Path) -> io::Result<(NodeId, String)> {
        let name = names(path)?.pop().ok_or(ErrorKind::InvalidInput)?;
        Ok((self.directory(path.parent().unwrap_or(Path::new("")))?, name))
    }

    pub(super) fn exists(&self, path: &Path) -> bool {
        self.find(path).is_ok()
    }

    pub(super) fn directory(&self, path: &Path) -> io::Result<NodeId> {
        let node = self.find(path)?;
        self.dir(node).map(|_| node)
    }

    pub(super) fn file(&self, path: &Path) -> io::Result<NodeId> {
        let node = self.find(path)?;
        match &self.nodes[node] {
            Node::File(_) => Ok(node),
            Node::Directory(_) => Err(ErrorKind::IsADirectory.into()),
        }
    }

    /// The content of a file whose node [`Tree::file`] or [`Tree::create_file`] returned.
    pub(super) fn content(&mut self, node: NodeId) -> &mut FileContent {
        match &mut self.nodes[node] {
            Node::File(content) => content,
            Node::Directory(_) => unreachable!("file handles are made for files only"),
        }
    }

    pub(super) fn list(&self, path: &Path) -> io::Result<Vec<String>> {
        let dir = self.find(path)?;
        Ok(self.dir(dir)?.live.keys().cloned().collect())
    }

    /// The bytes of all files that have a name.
    pub(super) fn total_bytes(&self) -> u64 {
        let mut total = 0;
        for node in &self.nodes {
            let Node::Directory(dir) = node else { continue };
            total += dir.live.values().map(|id| self.len(*id)).sum::<u64>();
        }
        total
    }

    fn len(&self, node: NodeId) -> u64 {
        match &self.nodes[node] {
            Node::File(content) => content.len(),
            Node::Directory(_) => 0,
        }
    }

    pub(super) fn create_dir_all(&mut self, path: &Path) -> io::Result<()> {
        let mut at = 0;
        for name in names(path)? {
            at = match self.dir(at)?.live.get(&name) {
                Some(node) => *node,
                None => self.add_dir(at, &name)?,
            };
        }
        self.dir(at).map(|_| ())
    }

    pub(super) fn create_file(&mut self, path: &Path) -> io::Result<NodeId> {
        let (dir, name) = self.parent(path)?;
        if self.exists(path) {
            let node = self.file(path)?;
            self.content(node).set_len(0);
            return Ok(node);
        }
        self.add(dir, &name, Node::File(FileContent::default()))
    }

    pub(super) fn remove_file(&mut self, path: &Path) -> io::Result<()> {
        self.file(path)?;
        let (dir, name) = self.parent(path)?;
        self.change(dir, Change::Unlink(name))
    }

    pub(super) fn remove_dir(&mut self, path: &Path) -> io::Result<()> {
        let node = self.find(path)?;
        if !self.dir(node)?.live.is_empty() {
            return Err(ErrorKind::DirectoryNotEmpty.into());
        }
        let (dir, name) = self.parent(path)?;
        self.change(dir, Change::Unlink(name))
    }

    pub(super) fn rename(&mut self, from: &Path, to: &Path) -> io::Result<()> {
        let node = self.find(from)?;
        let (from_dir, from_name) = self.parent(from)?;
        let (to_dir, to_name) = self.parent(to)?;
        if from_dir != to_dir {
            return Err(io::Error::new(ErrorKind::Unsupported, "the member renames within one directory only"));
        }
        if let Ok(replaced) = self.directory(to)
            && !self.dir(replaced)?.live.is_empty()
        {
            return Err(ErrorKind::DirectoryNotEmpty.into());
        }
        self.change(to_dir, Change::Rename { from: from_name, to: to_name, node })
    }

    pub(super) fn sync_dir(&mut self, path: &Path) -> io::Result<()> {
        let node = self.find(path)?;
        let dir = self.dir_mut(node)?;
        for change in std::mem::take(&mut dir.unsynced) {
            change.apply(&mut dir.durable);
        }
        Ok(())
    }

    /// The tree as it is found after a power loss.
    pub(super) fn after_power_loss(&self, policy: CrashPolicy) -> Tree {
        let found = self.nodes.iter().enumerate().map(|(id, node)| {
            let survival = Survival::new(policy, id as u64);
            match node {
                Node::File(content) => Node::File(content.after_power_loss(survival)),
                Node::Directory(dir) => {
                    let mut names = dir.durable.clone();
                    let kept = dir.unsynced.iter().enumerate().filter(|(i, _)| survival.keeps(*i));
                    kept.for_each(|(_, change)| change.apply(&mut names));
                    Node::Directory(Directory { durable: names.clone(), live: names, unsynced: Vec::new() })
                }
            }
        });
        Tree { nodes: found.collect() }
    }
}

/// The components of a path, from the root; `/a/b` and `a/b` are the same place.
fn names(path: &Path) -> io::Result<Vec<String>> {
    let mut names = Vec::new();
    for component in path.components() {
        match component {
            Component::Normal(name) => names.push(name.to_string_lossy().into_owned()),
            Component::RootDir | Component::CurDir => {}
            Component::ParentDir | Component::Prefix(_) => return Err(ErrorKind::InvalidInput.into()),
        }
    }
    Ok(names)
}
