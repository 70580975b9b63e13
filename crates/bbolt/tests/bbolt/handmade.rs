//! Files made page by page, as no writer would make them.

/// An element of a leaf: flags, key, value.
pub type Element<'a> = (u32, &'a [u8], &'a [u8]);

pub const BUCKET: u32 = 1;

/// A page with a header and elements that have 16 bytes each, and their data.
fn page(id: u64, kind: u16, page_bytes: usize, elements: &[[u8; 16]], data: &[u8]) -> Vec<u8> {
    let used = 16 + 16 * elements.len() + data.len();
    let pages = used.div_ceil(page_bytes);
    let mut bytes = [&id.to_le_bytes()[..], &kind.to_le_bytes(), &(elements.len() as u16).to_le_bytes()].concat();
    bytes.extend((pages as u32 - 1).to_le_bytes());
    bytes.extend(elements.iter().flatten());
    bytes.extend(data);
    bytes.resize(pages * page_bytes, 0);
    bytes
}

fn numbers(four: [u32; 4]) -> [u8; 16] {
    let mut bytes = [0; 16];
    for (place, number) in bytes.chunks_exact_mut(4).zip(four) {
        place.copy_from_slice(&number.to_le_bytes());
    }
    bytes
}

pub fn leaf(id: u64, page_bytes: usize, rows: &[Element<'_>]) -> Vec<u8> {
    let (mut elements, mut data) = (Vec::new(), Vec::new());
    for (number, (flags, key, value)) in rows.iter().enumerate() {
        let position = 16 * (rows.len() - number) + data.len();
        elements.push(numbers([*flags, position as u32, key.len() as u32, value.len() as u32]));
        data.extend_from_slice(key);
        data.extend_from_slice(value);
    }
    page(id, 2, page_bytes, &elements, &data)
}

pub fn branch(id: u64, page_bytes: usize, children: &[(&[u8], u64)]) -> Vec<u8> {
    let (mut elements, mut data) = (Vec::new(), Vec::new());
    for (number, (key, child)) in children.iter().enumerate() {
        let position = 16 * (children.len() - number) + data.len();
        elements.push(numbers([position as u32, key.len() as u32, *child as u32, (*child >> 32) as u32]));
        data.extend_from_slice(key);
    }
    page(id, 1, page_bytes, &elements, &data)
}

/// The value of an element that holds a bucket.
pub fn bucket(root: u64) -> Vec<u8> {
    [root.to_le_bytes(), [0; 8]].concat()
}

/// A bucket inside its element.
pub fn inline(rows: &[Element<'_>]) -> Vec<u8> {
    let used: usize = rows.iter().map(|(_, key, value)| 16 + key.len() + value.len()).sum();
    [bucket(0), leaf(0, 1, rows)[..16 + used].to_vec()].concat()
}

/// A meta page; `number` is both its id and its transaction.
pub fn meta(number: u64, page_bytes: usize, root: u64, pages: u64) -> Vec<u8> {
    let mut meta = Vec::new();
    for number in [0xED0C_DAED, 2, page_bytes as u32, 0] {
        meta.extend(u32::to_le_bytes(number));
    }
    for number in [root, 0, u64::MAX, pages, number] {
        meta.extend(number.to_le_bytes());
    }
    let sum = meta
        .iter()
        .fold(0xcbf2_9ce4_8422_2325_u64, |sum, &byte| (sum ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3));
    meta.extend(sum.to_le_bytes());
    let mut page = [&number.to_le_bytes()[..], &4_u16.to_le_bytes(), &[0; 6]].concat();
    page.extend(meta);
    page.resize(page_bytes, 0);
    page
}

/// A whole file without a free list, as etcd writes it: `pages` have the ids from 2 on.
pub fn file(page_bytes: usize, root: u64, pages: &[Vec<u8>]) -> Vec<u8> {
    let pages = pages.concat();
    let count = (pages.len() / page_bytes) as u64 + 2;
    [meta(0, page_bytes, root, count), meta(1, page_bytes, root, count), pages].concat()
}
