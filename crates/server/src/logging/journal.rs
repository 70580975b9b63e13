//! The journal of systemd, by its native protocol: a datagram of fields for each line.

use std::fs::File;
use std::io::{self, IoSlice, Write};
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::net::UnixDatagram;
use std::path::{Path, PathBuf};

use rustix::fs::{MemfdFlags, SealFlags, fcntl_add_seals, memfd_create};
use rustix::net::{SendAncillaryBuffer, SendAncillaryMessage, SendFlags, SocketAddrUnix, sendmsg_addr};

use super::Level;
use super::line::Entry;

const SOCKET: &str = "/run/systemd/journal/socket";

pub struct Journal {
    /// Not connected, so that a journal that was restarted is found again.
    socket: UnixDatagram,
    path: PathBuf,
    identifier: String,
}

impl Journal {
    /// # Errors
    /// There is no journal on this machine; etcd's text.
    pub fn find() -> Result<Self, String> {
        Self::at(Path::new(SOCKET))
    }

    fn at(path: &Path) -> Result<Self, String> {
        let name = std::env::args_os().next().map(PathBuf::from);
        let identifier =
            name.as_ref().and_then(|name| name.file_name()).map(|name| name.to_string_lossy().into_owned());
        let open = || {
            UnixDatagram::unbound()?.connect(path)?;
            UnixDatagram::unbound()
        };
        let socket = open().map_err(|error: io::Error| {
            format!("can't find journal (dial unixgram {}: connect: {error})", path.display())
        })?;
        Ok(Self { socket, path: path.to_owned(), identifier: identifier.unwrap_or_else(|| "metastore".into()) })
    }

    /// Without its journal, a line goes to stderr, as in etcd.
    pub fn write(&self, entry: &Entry) -> io::Result<()> {
        let fields = fields(entry, &self.identifier);
        let sent = match self.socket.send_to(&fields, &self.path) {
            Err(error) if error.raw_os_error() == Some(libc::EMSGSIZE) => self.send_file(&fields),
            sent => sent.map(|_| ()),
        };
        sent.or_else(|_| io::stderr().lock().write_all(entry.text.as_bytes()))
    }

    /// Fields that exceed a datagram travel as a sealed file in memory.
    fn send_file(&self, fields: &[u8]) -> io::Result<()> {
        let file: OwnedFd = memfd_create("journal", MemfdFlags::CLOEXEC | MemfdFlags::ALLOW_SEALING)?;
        let mut file = File::from(file);
        file.write_all(fields)?;
        fcntl_add_seals(&file, SealFlags::SHRINK | SealFlags::GROW | SealFlags::WRITE | SealFlags::SEAL)?;
        let mut space = [std::mem::MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
        let mut ancillary = SendAncillaryBuffer::new(&mut space);
        let files = [file.as_fd()];
        assert!(ancillary.push(SendAncillaryMessage::ScmRights(&files)), "there is space for one descriptor");
        let address = SocketAddrUnix::new(&self.path)?;
        sendmsg_addr(&self.socket, &address, &[IoSlice::new(&[])], &mut ancillary, SendFlags::empty())?;
        Ok(())
    }
}

/// The fields that etcd sends. A text of several lines has its length before it; so has the message, always.
fn fields(entry: &Entry, identifier: &str) -> Vec<u8> {
    let priority = match entry.level {
        Level::Debug => 7,
        Level::Info => 6,
        Level::Warn => 4,
        Level::Error => 3,
        Level::Fatal => 2,
    };
    let mut fields = format!("PRIORITY={priority}\nMESSAGE\n").into_bytes();
    fields.extend_from_slice(&(entry.text.len() as u64).to_le_bytes());
    fields.extend_from_slice(entry.text.as_bytes());
    let identifier = identifier.replace('\n', " ");
    fields.extend_from_slice(format!("\nPACKAGE={}\nSYSLOG_IDENTIFIER={identifier}\n", entry.package).as_bytes());
    fields
}

#[cfg(test)]
mod tests {
    use super::*;
    use rustix::net::{RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, recvmsg};
    use std::io::{IoSliceMut, Read as _, Seek as _};
    use std::time::Duration;

    fn entry(text: &str) -> Entry {
        Entry { level: Level::Warn, package: "embed".into(), text: text.into() }
    }

    /// The bytes are those that etcd 3.7.3 sent.
    #[test]
    fn a_line_reaches_the_journal_with_the_fields_of_etcd() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("socket");
        let journal = UnixDatagram::bind(&path).unwrap();
        journal.set_read_timeout(Some(Duration::from_secs(10))).unwrap();
        let mut sender = Journal::at(&path).unwrap();
        sender.identifier = "etcd".into();
        sender.write(&entry("{\"level\":\"warn\"}\n")).unwrap();
        let mut buffer = [0; 1000];
        let length = journal.recv(&mut buffer).unwrap();
        let expected = b"PRIORITY=4\nMESSAGE\n\x11\0\0\0\0\0\0\0{\"level\":\"warn\"}\n\nPACKAGE=embed\n\
            SYSLOG_IDENTIFIER=etcd\n";
        assert_eq!(buffer[..length].escape_ascii().to_string(), expected.escape_ascii().to_string());
    }

    #[test]
    fn a_line_beyond_a_datagram_reaches_the_journal_as_a_file() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("socket");
        let journal = UnixDatagram::bind(&path).unwrap();
        journal.set_read_timeout(Some(Duration::from_secs(10))).unwrap();
        let long = entry(&"x".repeat(4 << 20));
        let sender = Journal::at(&path).unwrap();
        sender.write(&long).unwrap();
        let mut space = [std::mem::MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
        let mut ancillary = RecvAncillaryBuffer::new(&mut space);
        let mut byte = [0];
        recvmsg(&journal, &mut [IoSliceMut::new(&mut byte)], &mut ancillary, RecvFlags::empty()).unwrap();
        let Some(RecvAncillaryMessage::ScmRights(mut files)) = ancillary.drain().next() else { panic!("no file") };
        let mut file = File::from(files.next().unwrap());
        let mut read = Vec::new();
        file.rewind().unwrap();
        file.read_to_end(&mut read).unwrap();
        assert!(read == fields(&long, &sender.identifier), "{} bytes", read.len());
    }

    #[test]
    fn without_a_journal_there_is_no_start() {
        let Err(error) = Journal::at(Path::new("/no/such/socket")) else { panic!("found") };
        assert!(
            error.starts_with("can't find journal (dial unixgram /no/such/socket: connect: No such file"),
            "{error}"
        );
    }
}
