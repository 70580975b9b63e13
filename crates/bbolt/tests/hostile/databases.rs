//! Any bytes as a database. The plain tests and the fuzz target share this.

use metastore_bbolt::{Database, Layout, ReadError, Value, Writer};

/// As many bytes as an input may make a cursor hold.
const MAX_PATH_BYTES: u64 = 1 << 16;

type Rows = Vec<(Vec<u8>, Vec<u8>)>;

/// The buckets of the root bucket with their rows. Rows of the root bucket, and of buckets in buckets, are only
/// counted.
#[derive(Debug, Default, PartialEq)]
struct Content {
    buckets: Vec<(Vec<u8>, Rows)>,
    rows: usize,
    bytes: usize,
}

fn read(file: &[u8]) -> Result<Content, ReadError> {
    let database = Database::open(file, MAX_PATH_BYTES)?;
    let mut cursor = database.root()?;
    let mut content = Content::default();
    let mut depth = 0;
    loop {
        let Some(row) = cursor.next()? else {
            if depth == 0 {
                return Ok(content);
            }
            depth -= 1;
            continue;
        };
        content.bytes += row.key.len();
        match row.value {
            Value::Bucket => {
                if depth == 0 {
                    content.buckets.push((row.key.to_vec(), Vec::new()));
                }
                depth += 1;
                cursor.enter()?;
            }
            Value::Bytes(value) => {
                content.rows += 1;
                content.bytes += value.len();
                if let Some((_, rows)) = content.buckets.last_mut().filter(|_| depth == 1) {
                    rows.push((row.key.to_vec(), value.to_vec()));
                }
            }
        }
    }
}

fn write(content: &Content) -> Vec<u8> {
    let mut layout = Layout::new();
    for (name, rows) in &content.buckets {
        layout.bucket(name).expect("names of a file ascend");
        rows.iter().for_each(|(key, value)| layout.row(key.len(), value.len()).expect("a row of a small file"));
    }
    let plan = layout.finish();
    let mut writer = Writer::new(plan);
    for (name, rows) in &content.buckets {
        writer.bucket(name).expect("names of a file ascend");
        rows.iter().for_each(|(key, value)| writer.row(key, value).expect("keys of a file ascend"));
    }
    let file = writer.finish().expect("both passes are alike");
    assert_eq!(file.len() as u64, plan.size_bytes());
    file.to_vec()
}

/// # Panics
/// If the reader does, if it makes more of the bytes than they are, or if what was read cannot be written and read
/// again.
pub fn attempt(bytes: &[u8]) {
    let Ok(content) = read(bytes) else { return };
    // Rows in buckets inside buckets are inside the rows around them: each byte counts once.
    assert!(content.bytes <= bytes.len(), "{} bytes of rows in {}", content.bytes, bytes.len());
    let again = read(&write(&content)).expect("a file that was just written");
    assert!(again.buckets == content.buckets);
}

/// The number of rows in the file; None if it is refused.
#[allow(dead_code, reason = "not for the fuzz target")]
pub fn rows(file: &[u8]) -> Option<usize> {
    read(file).ok().map(|content| content.rows)
}

/// A file of the writer.
#[allow(dead_code, reason = "not for the fuzz target")]
pub fn written() -> Vec<u8> {
    let rows = (0..20).map(|number| (format!("{number:02}").into_bytes(), vec![b'v'; 100])).collect();
    write(&Content { buckets: vec![(b"a".to_vec(), rows), (b"b".to_vec(), Vec::new())], ..Content::default() })
}
