//! The database files of bbolt, without bbolt: etcd's `member/snap/db`, and the backups of `etcdctl snapshot save`.
//!
//! The problem: a backup goes to a client while it is made, so that it needs no memory or disk of its own. But the
//! first pages of such a file name its last ones: the root page, and the number of all pages. And a backup that is read
//! comes from outside, so nothing in it may be believed.
//!
//! ```text
//!   lengths of rows ─▶ Layout ─▶ Plan: the size, the root page
//!                                 │
//!                                 ▼
//!   rows ─────────────────────▶ Writer ─▶ │meta│meta│free list│leaf│leaf│branch│ ... │root leaf│
//!                                            └──────────── names ────────────────────▶
//!   file ─▶ Database ─▶ Cursor ─▶ rows in order
//! ```
//!
//! A file is a tree of pages. The rows of the root bucket are the other buckets: a row's value is the page id of a
//! bucket's root, or the bucket's only page if that is small. A leaf page holds rows, a branch page the first key of
//! each page below it. A page that is too long for its rows continues on the pages behind it.
//!
//! Rules
//! - **Bytes in, bytes out.** There is no file, clock or thread here; the caller reads and sends.
//! - **Two passes, one code.** `tree.rs` places the rows, with lengths in the first pass and with bytes in the second.
//!   The writer refuses rows that were not in the first pass.
//! - **Memory for one page of each level.** This holds for both passes and for a cursor.
//! - **Nothing that is read is believed.** Every number is checked before its use, and each page is visited once in a
//!   walk, so that a walk takes time in proportion to the file.
//!
//! Deliberately absent: changes to a file, the list of free pages (a reader does not need it, and etcd does not write
//! one), buckets inside buckets in written files (etcd has none), the search for a key, and the meaning of etcd's rows.

mod cursor;
mod database;
mod format;
mod page;
mod tree;
mod writer;

pub use cursor::{Cursor, Row, Value};
pub use database::{Database, ReadAt, ReadError};
pub use format::MetaFault;
pub use page::PageFault;
pub use writer::{Layout, Plan, WriteError, Writer};
