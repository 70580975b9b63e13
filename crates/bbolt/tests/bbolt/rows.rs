//! Buckets as plain lists, written and read whole.

use metastore_bbolt::{Database, Layout, Plan, ReadAt, ReadError, Value, WriteError, Writer};

pub type Rows = Vec<(Vec<u8>, Vec<u8>)>;
pub type Buckets = Vec<(Vec<u8>, Rows)>;

/// Longer than any row here.
pub const MAX_PATH_BYTES: u64 = 1 << 20;

pub fn plan(buckets: &Buckets) -> Plan {
    let mut layout = Layout::new();
    for (name, rows) in buckets {
        layout.bucket(name).expect("a name in order");
        for (key, value) in rows {
            layout.row(key.len(), value.len()).expect("a row that fits");
        }
    }
    layout.finish()
}

/// The second pass; finished pages are taken away after each row.
pub fn try_write(plan: Plan, buckets: &Buckets) -> Result<Vec<u8>, WriteError> {
    let mut writer = Writer::new(plan);
    let mut file = Vec::new();
    for (name, rows) in buckets {
        writer.bucket(name)?;
        for (key, value) in rows {
            writer.row(key, value)?;
            file.extend(writer.finished().split());
        }
    }
    file.extend(writer.finish()?);
    Ok(file)
}

pub fn write(buckets: &Buckets) -> Vec<u8> {
    let plan = plan(buckets);
    let file = try_write(plan, buckets).expect("the passes agree");
    assert_eq!(file.len() as u64, plan.size_bytes(), "the size is known after the first pass");
    assert_eq!(plan.rows(), buckets.iter().map(|(_, rows)| rows.len() as u64).sum::<u64>());
    file
}

/// All buckets with all rows, in one walk. A bucket in a bucket has a name that begins with that of the other one. Rows
/// of the root bucket, which only damage makes, are in buckets without a name.
pub fn read(source: impl ReadAt) -> Result<Buckets, ReadError> {
    read_with(source, MAX_PATH_BYTES)
}

pub fn read_with(source: impl ReadAt, max_path_bytes: u64) -> Result<Buckets, ReadError> {
    let database = Database::open(source, max_path_bytes)?;
    let mut cursor = database.root()?;
    let mut buckets = Buckets::new();
    // The names of the buckets around the present one, and the number of that one.
    let mut around: Vec<(Vec<u8>, usize)> = Vec::new();
    loop {
        let Some(row) = cursor.next()? else {
            if around.pop().is_none() {
                return Ok(buckets);
            }
            continue;
        };
        let (name, number) = around.last().cloned().unwrap_or_default();
        match row.value {
            Value::Bucket => {
                let name = [&name[..], row.key].concat();
                buckets.push((name.clone(), Vec::new()));
                around.push((name, buckets.len() - 1));
                cursor.enter()?;
            }
            Value::Bytes(value) if around.is_empty() => {
                buckets.push((Vec::new(), vec![(row.key.to_vec(), value.to_vec())]));
            }
            Value::Bytes(value) => buckets[number].1.push((row.key.to_vec(), value.to_vec())),
        }
    }
}

/// A bucket of `count` rows, with keys and values of these lengths. The keys begin with their number.
pub fn bucket(name: &str, count: usize, key_len: usize, value_len: usize) -> (Vec<u8>, Rows) {
    let rows = (0..count).map(|number| {
        let mut key = format!("{number:08}").into_bytes();
        key.resize(key_len.max(8), b'k');
        (key, vec![b'v'; value_len])
    });
    (name.into(), rows.collect())
}
