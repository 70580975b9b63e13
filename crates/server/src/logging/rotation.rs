//! A log file that is renamed when it has grown, with the names and rules of lumberjack, which etcd uses.
//!
//! `etcd.log` becomes `etcd-2006-01-02T15-04-05.000.log`, and then `etcd-2006-01-02T15-04-05.000.log.gz`. A thread
//! compresses and removes files, so that the log goes on meanwhile.

use std::fs::{self, File, OpenOptions, Permissions};
use std::io;
use std::os::unix::fs::{OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use flate2::Compression;
use flate2::write::GzEncoder;
use serde_json::Value;

use super::line::timestamp;
use super::sink::Plain;

const MEGABYTE: u64 = 1 << 20;
/// In place of 0.
const DEFAULT_MAX_BYTES: u64 = 100 * MEGABYTE;
const DAY: Duration = Duration::from_secs(24 * 60 * 60);
/// The mode of a file that is new.
const MODE: u32 = 0o600;
const COMPRESSED: &str = ".gz";

/// When a file is renamed, and which renamed files stay.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Rotation {
    max_bytes: u64,
    /// `None`: at any age.
    max_age: Option<Duration>,
    /// `None`: any number.
    max_backups: Option<usize>,
    local_time: bool,
    compress: bool,
}

impl Rotation {
    /// Reads `--log-rotation-config-json`. Unknown keys are ignored and names may be in any case, as in etcd.
    pub fn parse(text: &str) -> Result<Self, String> {
        let json: Value =
            serde_json::from_str(text).map_err(|error| format!("improperly formatted log rotation config: {error}"))?;
        let Value::Object(pairs) = json else {
            return Err(format!("invalid log rotation config: {text} is not an object"));
        };
        let mut rotation = Rotation {
            max_bytes: DEFAULT_MAX_BYTES,
            max_age: None,
            max_backups: None,
            local_time: false,
            compress: false,
        };
        for (name, value) in &pairs {
            let expected = |what: &str| format!("invalid log rotation config: {name} is {value}, expected {what}");
            let number = || value.as_i64().ok_or_else(|| expected("a whole number"));
            let switch = || value.as_bool().ok_or_else(|| expected("true or false"));
            match name.to_ascii_lowercase().as_str() {
                // Go leaves a value that is null as it is.
                _ if value.is_null() => {}
                "maxsize" => {
                    let megabytes = u64::try_from(number()?).map_err(|_| expected("0 (which means 100) or more"))?;
                    let bytes = megabytes.saturating_mul(MEGABYTE);
                    rotation.max_bytes = if bytes == 0 { DEFAULT_MAX_BYTES } else { bytes };
                }
                "maxage" => rotation.max_age = positive(number()?).map(|days| DAY.saturating_mul(days)),
                "maxbackups" => rotation.max_backups = positive(number()?).map(|count| count as usize),
                "localtime" => rotation.local_time = switch()?,
                "compress" => rotation.compress = switch()?,
                _ => {}
            }
        }
        Ok(rotation)
    }
}

/// 0 and less mean no limit.
fn positive(number: i64) -> Option<u32> {
    (number > 0).then(|| u32::try_from(number).unwrap_or(u32::MAX))
}

pub struct RotatedFile {
    place: Place,
    rotation: Rotation,
    file: Plain,
    size_bytes: u64,
    /// Wakes the thread that compresses and removes files.
    mill: SyncSender<()>,
}

impl RotatedFile {
    /// Opens the file and starts the thread that tends to the renamed ones. A missing directory is made, as in etcd.
    pub fn start(path: PathBuf, rotation: Rotation) -> io::Result<Self> {
        let place = Place::of(path)?;
        fs::create_dir_all(&place.directory)?;
        let (mill, woken) = sync_channel(1);
        let tended = (place.clone(), rotation.clone());
        std::thread::Builder::new().name("log-mill".into()).spawn(move || tend(&tended.0, &tended.1, &woken))?;
        let (file, size_bytes) = open(&place.path, MODE)?;
        let rotated = RotatedFile { place, rotation, file, size_bytes, mill };
        rotated.wake();
        Ok(rotated)
    }

    /// # Errors
    /// The line is not written; or the file could not be renamed, and the line is lost.
    pub fn write(&mut self, line: &[u8]) -> io::Result<()> {
        let length = line.len() as u64;
        if self.size_bytes > 0 && self.size_bytes + length > self.rotation.max_bytes {
            self.rotate()?;
        }
        self.file.write(line)?;
        self.size_bytes += length;
        Ok(())
    }

    fn rotate(&mut self) -> io::Result<()> {
        let mode = fs::metadata(&self.place.path).map_or(MODE, |file| file.permissions().mode());
        let mut at = SystemTime::now();
        // Two files of one millisecond keep names of their own.
        let backup = loop {
            let backup = self.place.backup(&stamp(at, self.rotation.local_time));
            if !backup.exists() && !compressed(&backup).exists() {
                break backup;
            }
            at += Duration::from_millis(1);
        };
        match fs::rename(&self.place.path, backup) {
            // Somebody else has renamed the file: a new one begins.
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
            _ => {}
        }
        (self.file, self.size_bytes) = open(&self.place.path, mode)?;
        self.wake();
        Ok(())
    }

    fn wake(&self) {
        // A thread that is about to look anyway need not be woken.
        _ = self.mill.try_send(());
    }
}

fn open(path: &Path, mode: u32) -> io::Result<(Plain, u64)> {
    let file = OpenOptions::new().create(true).append(true).mode(mode & 0o777).open(path)?;
    let size_bytes = file.metadata()?.len();
    Ok((Plain::new(file), size_bytes))
}

/// Where the file is, and how those that were renamed are called.
#[derive(Clone)]
struct Place {
    path: PathBuf,
    directory: PathBuf,
    /// Before the time, with a hyphen.
    prefix: String,
    /// After the time, with a dot.
    suffix: String,
}

impl Place {
    fn of(path: PathBuf) -> io::Result<Self> {
        let name = path.file_name().and_then(|name| name.to_str());
        let name = name.ok_or_else(|| io::Error::new(io::ErrorKind::InvalidInput, "the name is not UTF-8"))?;
        let dot = name.rfind('.').unwrap_or(name.len());
        let (prefix, suffix) = (format!("{}-", &name[..dot]), name[dot..].to_owned());
        let directory = match path.parent() {
            Some(parent) if parent != Path::new("") => parent.to_owned(),
            _ => PathBuf::from("."),
        };
        Ok(Place { path, directory, prefix, suffix })
    }

    fn backup(&self, stamp: &str) -> PathBuf {
        self.directory.join(format!("{}{stamp}{}", self.prefix, self.suffix))
    }

    /// The time in the name of a renamed file; whether it is compressed.
    fn stamp_of<'a>(&self, name: &'a str) -> Option<(&'a str, bool)> {
        let (plain, compressed) = match name.strip_suffix(COMPRESSED) {
            Some(plain) if plain.ends_with(&self.suffix) => (plain, true),
            _ => (name, false),
        };
        let stamp = plain.strip_prefix(&self.prefix)?.strip_suffix(&self.suffix)?;
        let pattern = b"0000-00-00T00-00-00.000";
        let alike = |(have, want): (u8, &u8)| if *want == b'0' { have.is_ascii_digit() } else { have == *want };
        (stamp.len() == pattern.len() && stamp.bytes().zip(pattern).all(alike)).then_some((stamp, compressed))
    }
}

fn compressed(path: &Path) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(COMPRESSED);
    name.into()
}

/// `2006-01-02T15-04-05.000`.
fn stamp(at: SystemTime, local: bool) -> String {
    let at = if local { shifted_to_local(at) } else { at };
    timestamp(at)[..23].replace(':', "-")
}

/// The time that, written as UTC, shows what a clock on the wall shows.
#[allow(unsafe_code, reason = "no safe binding knows the time zone")]
fn shifted_to_local(at: SystemTime) -> SystemTime {
    let seconds = at.duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs());
    let seconds = libc::time_t::try_from(seconds).unwrap_or_default();
    // SAFETY: a `tm` of zeros is valid, and `localtime_r` writes to it and to nothing else.
    let offset = unsafe {
        let mut parts: libc::tm = std::mem::zeroed();
        libc::localtime_r(&raw const seconds, &raw mut parts);
        parts.tm_gmtoff
    };
    let shift = Duration::from_secs(offset.unsigned_abs());
    if offset >= 0 { at + shift } else { at - shift }
}

fn tend(place: &Place, rotation: &Rotation, woken: &Receiver<()>) {
    while woken.recv().is_ok() {
        if let Err(error) = tidy(place, rotation, SystemTime::now()) {
            let file = place.path.display();
            seldom!(warn, (), file = %file, error = %error, "rotated log files cannot be compressed or removed");
        }
    }
}

/// Removes the renamed files that are too many or too old, and compresses the others.
fn tidy(place: &Place, rotation: &Rotation, now: SystemTime) -> io::Result<()> {
    let mut backups = Vec::new();
    for entry in fs::read_dir(&place.directory)? {
        let name = entry?.file_name();
        if let Some((stamp, compressed)) = name.to_str().and_then(|name| place.stamp_of(name)) {
            backups.push((stamp.to_owned(), compressed, place.directory.join(&name)));
        }
    }
    // The newest first.
    backups.sort_by(|one, other| other.cmp(one));
    let oldest = rotation.max_age.and_then(|age| now.checked_sub(age)).map(|at| stamp(at, rotation.local_time));
    let mut newer: Vec<&str> = Vec::new();
    for (stamp, is_compressed, path) in &backups {
        if newer.last() != Some(&stamp.as_str()) {
            newer.push(stamp);
        }
        let too_many = rotation.max_backups.is_some_and(|most| newer.len() > most);
        if too_many || oldest.as_ref().is_some_and(|oldest| stamp < oldest) {
            fs::remove_file(path)?;
        } else if rotation.compress && !is_compressed {
            compress(path)?;
        }
    }
    Ok(())
}

fn compress(path: &Path) -> io::Result<()> {
    let target = compressed(path);
    let mut source = File::open(path)?;
    let mode = source.metadata()?.permissions().mode() & 0o777;
    let write = || {
        let file = OpenOptions::new().write(true).create(true).truncate(true).mode(mode).open(&target)?;
        file.set_permissions(Permissions::from_mode(mode))?;
        let mut encoder = GzEncoder::new(file, Compression::default());
        io::copy(&mut source, &mut encoder)?;
        encoder.finish()
    };
    let written = { write }();
    match written {
        Ok(_) => fs::remove_file(path),
        Err(error) => {
            // Half of a file is of no use, and takes the name of the whole one.
            _ = fs::remove_file(&target);
            Err(error)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Read as _;

    fn names(directory: &Path) -> Vec<String> {
        let name = |entry: io::Result<fs::DirEntry>| entry.unwrap().file_name().into_string().unwrap();
        let mut names: Vec<_> = fs::read_dir(directory).unwrap().map(name).collect();
        names.sort();
        names
    }

    fn rotation(text: &str) -> Rotation {
        Rotation::parse(text).unwrap()
    }

    #[test]
    fn settings_are_read_as_etcd_reads_them() {
        let default = rotation("{}");
        assert_eq!((default.max_bytes, default.max_age, default.max_backups), (100 << 20, None, None));
        let read = rotation(r#"{"MaxSize": 3, "maxage": 2, "maxbackups": -1, "compress": true, "other": 1}"#);
        assert_eq!((read.max_bytes, read.max_age, read.max_backups), (3 << 20, Some(2 * DAY), None));
        assert!(read.compress && !read.local_time);
        assert_eq!(rotation(r#"{"maxsize": 0, "maxage": null}"#), default);
    }

    #[test]
    fn a_file_that_has_grown_is_renamed_and_no_line_is_lost() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("new/etcd.log");
        let small = Rotation { max_bytes: 100, ..rotation("{}") };
        let mut file = RotatedFile::start(path.clone(), small.clone()).unwrap();
        fs::set_permissions(&path, Permissions::from_mode(0o640)).unwrap();
        for number in 0..4 {
            file.write(format!("{number:>39}\n").as_bytes()).unwrap();
        }
        // A start goes on with the file that is there.
        let mut file = RotatedFile::start(path.clone(), small).unwrap();
        file.write(format!("{:>39}\n", 4).as_bytes()).unwrap();
        let directory = path.parent().unwrap();
        let names = names(directory);
        assert_eq!(names.len(), 3, "{names:?}");
        let place = Place::of(path.clone()).unwrap();
        assert!(names[..2].iter().all(|name| place.stamp_of(name).is_some_and(|(_, compressed)| !compressed)));
        assert_eq!(names[2], "etcd.log");
        let text: String = names.iter().map(|name| fs::read_to_string(directory.join(name)).unwrap()).collect();
        assert_eq!(text.split_whitespace().collect::<Vec<_>>(), ["0", "1", "2", "3", "4"]);
        assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o640, "the mode goes on");
    }

    #[test]
    fn renamed_files_are_compressed_and_those_too_many_or_too_old_go() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("etcd.log");
        let place = Place::of(path).unwrap();
        let at = |day: u64| UNIX_EPOCH + DAY * (20_000 + day as u32);
        for day in 1..=5 {
            fs::write(place.backup(&stamp(at(day), false)), format!("day {day}")).unwrap();
        }
        let others = ["etcd-2024.log", "etcd-notes.log", "etcd.log", "other-2024-10-04T00-00-00.000.log"];
        for other in others {
            fs::write(directory.path().join(other), "").unwrap();
        }
        tidy(&place, &rotation(r#"{"maxbackups": 4}"#), at(6)).unwrap();
        assert!(!place.backup(&stamp(at(1), false)).exists() && place.backup(&stamp(at(2), false)).exists());
        tidy(&place, &rotation(r#"{"maxage": 3, "compress": true}"#), at(6)).unwrap();
        let expected = (3..=5).map(|day| format!("etcd-{}.log.gz", stamp(at(day), false)));
        let mut expected: Vec<_> = expected.chain(others.map(str::to_owned)).collect();
        expected.sort();
        assert_eq!(names(directory.path()), expected);
        let file = File::open(compressed(&place.backup(&stamp(at(4), false)))).unwrap();
        let mut text = String::new();
        flate2::read::GzDecoder::new(file).read_to_string(&mut text).unwrap();
        assert_eq!(text, "day 4");
        // A compressed file counts as the one that it was.
        tidy(&place, &rotation(r#"{"maxbackups": 2}"#), at(6)).unwrap();
        assert!(!compressed(&place.backup(&stamp(at(3), false))).exists());
    }
}
