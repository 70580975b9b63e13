//! The file of the audit log, and its lines.

use std::fs::{self, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use serde::Serialize;

use super::Record;
use crate::config::AuditSettings;
use crate::logging::timestamp;

/// Only the user that runs the member may read the file: it holds keys and names of users.
const MODE: u32 = 0o600;

pub struct File {
    settings: AuditSettings,
    file: fs::File,
}

/// One line. Keys that are not UTF-8 are escaped as in Rust's byte strings.
#[derive(Serialize)]
struct Line<'a> {
    ts: String,
    member: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    remote: Option<String>,
    user: String,
    #[serde(skip_serializing_if = "str::is_empty")]
    identified: &'a str,
    method: &'a str,
    #[serde(flatten)]
    subject: &'a super::Subject,
    outcome: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    error: Option<&'a str>,
}

/// Records that the queue had no room for, or that could not be written.
#[derive(Serialize)]
struct Lost<'a> {
    ts: String,
    member: &'a str,
    lost: u64,
}

impl File {
    pub fn open(settings: &AuditSettings) -> io::Result<Self> {
        Ok(Self { settings: settings.clone(), file: append(&settings.file)? })
    }

    /// Writes all records or none, and returns whether they are written. A failure is reported in the log.
    pub fn write(&mut self, member: &str, records: &[Record], lost: u64) -> bool {
        let mut out = Vec::new();
        if lost > 0 {
            let ts = records.first().map_or_else(String::new, |record| timestamp(record.at));
            line(&mut out, &Lost { ts, member, lost });
        }
        for record in records {
            line(
                &mut out,
                &Line {
                    ts: timestamp(record.at),
                    member,
                    remote: record.remote.map(|remote| remote.to_string()),
                    user: String::from_utf8_lossy(&record.user).into_owned(),
                    identified: record.identified,
                    method: record.method,
                    subject: &record.subject,
                    outcome: record.outcome.as_ref().map_or_else(|status| status.code.name(), |()| "OK"),
                    error: record.outcome.as_ref().err().map(|status| &*status.message),
                },
            );
        }
        let written = self.append(&out);
        if let Err(error) = &written {
            let file = self.settings.file.display();
            let records = records.len();
            seldom!(error, (), file = %file, error = %error, records, "the audit log cannot be written");
        }
        written.is_ok()
    }

    fn append(&mut self, lines: &[u8]) -> io::Result<()> {
        let mut bytes = self.reopen_if_moved()?;
        if bytes > 0 && bytes + lines.len() as u64 > self.settings.rotate_bytes {
            self.rotate()?;
            bytes = 0;
        }
        let written = self.file.write_all(lines);
        if written.is_err() {
            // No part of a line stays, so that each line can be read. If that fails, too, the first error tells more.
            _ = self.file.set_len(bytes);
        }
        written
    }

    /// Begins a new file if somebody else has removed or renamed the file. Returns the size of the file.
    fn reopen_if_moved(&mut self) -> io::Result<u64> {
        let identity = |of: &fs::Metadata| (of.dev(), of.ino());
        let open = self.file.metadata()?;
        match fs::metadata(&self.settings.file) {
            Ok(at_path) if identity(&at_path) == identity(&open) => return Ok(open.len()),
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
            _ => {}
        }
        self.file = append(&self.settings.file)?;
        Ok(self.file.metadata()?.len())
    }

    /// `FILE` becomes `FILE.1`, `FILE.1` becomes `FILE.2`, and so on; the oldest is removed.
    fn rotate(&mut self) -> io::Result<()> {
        let path = &self.settings.file;
        for age in (0..self.settings.kept_files).rev() {
            let from = if age == 0 { path.clone() } else { aged(path, age) };
            match fs::rename(from, aged(path, age + 1)) {
                Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
                _ => {}
            }
        }
        if self.settings.kept_files == 0 {
            fs::remove_file(path)?;
        }
        self.file = append(path)?;
        Ok(())
    }
}

fn append(path: &Path) -> io::Result<fs::File> {
    OpenOptions::new().create(true).append(true).mode(MODE).open(path)
}

fn aged(path: &Path, age: u32) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(format!(".{age}"));
    name.into()
}

fn line(out: &mut Vec<u8>, line: &impl Serialize) {
    serde_json::to_writer(&mut *out, line).expect("plain structures become JSON");
    out.push(b'\n');
}

#[cfg(test)]
mod tests {
    use std::time::UNIX_EPOCH;

    use super::super::Subject;
    use super::*;
    use crate::config::AuditLevel;
    use crate::grpc::{Code, Status};

    fn record(key: &'static [u8], outcome: Result<(), Status>) -> Record {
        Record {
            at: UNIX_EPOCH,
            remote: Some("127.0.0.1:7".parse().unwrap()),
            user: "alice".into(),
            identified: "token",
            method: "etcdserverpb.KV/Put",
            subject: Subject::key(key),
            outcome,
        }
    }

    fn directory(name: &str) -> PathBuf {
        let directory = std::env::temp_dir().join(format!("metastore-audit-{name}-{}", std::process::id()));
        fs::create_dir_all(&directory).unwrap();
        directory
    }

    #[test]
    fn a_line_says_who_did_what_and_the_oldest_file_goes() {
        let directory = directory("lines");
        let path = directory.join("audit.log");
        let settings = AuditSettings { file: path.clone(), level: AuditLevel::All, rotate_bytes: 300, kept_files: 2 };
        let mut file = File::open(&settings).unwrap();
        let denied = Err(Status::new(Code::PermissionDenied, "etcdserver: permission denied"));
        file.write("m1", &[record(b"a\xff\"", denied)], 5);
        let written = fs::read_to_string(&path).unwrap();
        let expected = "{\"ts\":\"1970-01-01T00:00:00.000000Z\",\"member\":\"m1\",\"lost\":5}\n\
            {\"ts\":\"1970-01-01T00:00:00.000000Z\",\"member\":\"m1\",\"remote\":\"127.0.0.1:7\",\"user\":\"alice\",\
            \"identified\":\"token\",\"method\":\"etcdserverpb.KV/Put\",\"key\":\"a\\\\xff\\\\\\\"\",\
            \"outcome\":\"PermissionDenied\",\"error\":\"etcdserver: permission denied\"}\n";
        assert_eq!(written, expected);
        for key in [b"1", b"2", b"3"] {
            file.write("m1", &[record(key, Ok(()))], 0);
        }
        let key = |path: PathBuf| {
            let line = fs::read_to_string(path).unwrap();
            serde_json::from_str::<serde_json::Value>(&line).unwrap()["key"].as_str().unwrap().to_owned()
        };
        assert_eq!([path.clone(), aged(&path, 1), aged(&path, 2)].map(key), ["3", "2", "1"]);
        assert!(!aged(&path, 3).exists());
        fs::remove_dir_all(&directory).unwrap();
    }

    #[test]
    fn a_file_that_somebody_else_removed_or_renamed_is_made_again() {
        let directory = directory("moved");
        let path = directory.join("audit.log");
        let settings =
            AuditSettings { file: path.clone(), level: AuditLevel::All, rotate_bytes: 1 << 20, kept_files: 1 };
        let mut file = File::open(&settings).unwrap();
        assert!(file.write("m1", &[record(b"1", Ok(()))], 0));
        fs::remove_file(&path).unwrap();
        assert!(file.write("m1", &[record(b"2", Ok(()))], 0));
        fs::rename(&path, directory.join("renamed")).unwrap();
        assert!(file.write("m1", &[record(b"3", Ok(()))], 0));
        let keys = |path: &Path| fs::read_to_string(path).unwrap().matches("\"key\":\"3\"").count();
        assert_eq!([path.as_path(), &directory.join("renamed")].map(keys), [1, 0]);
        fs::remove_dir_all(&directory).unwrap();
    }

    #[test]
    fn a_failed_write_is_said_and_leaves_no_part_of_a_line() {
        let directory = directory("failed");
        let path = directory.join("audit.log");
        let settings =
            AuditSettings { file: path.clone(), level: AuditLevel::All, rotate_bytes: 1 << 20, kept_files: 1 };
        let mut file = File::open(&settings).unwrap();
        assert!(file.write("m1", &[record(b"1", Ok(()))], 0));
        // It is open for reading only.
        file.file = fs::File::open(&path).unwrap();
        assert!(!file.write("m1", &[record(b"2", Ok(()))], 0));
        file.file = append(&path).unwrap();
        assert!(file.write("m1", &[record(b"3", Ok(()))], 1));
        let written = fs::read_to_string(&path).unwrap();
        let lines: Vec<serde_json::Value> = written.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
        let seen: Vec<_> = lines.iter().map(|line| (line["key"].as_str(), line["lost"].as_u64())).collect();
        assert_eq!(seen, [(Some("1"), None), (None, Some(1)), (Some("3"), None)]);
        fs::remove_dir_all(&directory).unwrap();
    }
}
