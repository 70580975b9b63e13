use metastore_engine::*;
use std::time::Instant;
fn cpu() -> f64 { std::fs::read_to_string("/proc/thread-self/schedstat").unwrap().split(' ').next().unwrap().parse::<f64>().unwrap() / 1e9 }
fn main() {
    let a: Vec<String> = std::env::args().collect();
    let n: u64 = a[1].parse().unwrap();
    let batch: u64 = a[2].parse().unwrap();
    let path = std::path::PathBuf::from(&a[3]);
    let space: u64 = a.get(4).map_or(n, |s| s.parse().unwrap());
    let engine: Box<dyn Engine> = if a[3] == "memory" { Box::new(Memory::new()) } else { Box::new(RocksDb::open(&path, RocksDbSettings::default()).unwrap()) };
    let mut x = 88172645463325252u64;
    let mut rnd = || { x ^= x << 13; x ^= x >> 7; x ^= x << 17; x };
    let begin = engine.published().revision.max(1);
    let (mut t, t0) = (Instant::now(), Instant::now());
    let mut value = vec![0u8; 256];
    let mut max = std::time::Duration::ZERO;
    for i in 0..n {
        let main = begin + 1 + i as i64;
        // permutation of keys
        let k = if space == n { i.wrapping_mul(0x9E3779B97F4A7C15) } else { (rnd() % space).wrapping_mul(0x9E3779B97F4A7C15) };
        let key = format!("/registry/some/prefix/of/keys/that/is/rather/long/{k:016x}");
        for c in value.chunks_mut(8) { c.copy_from_slice(&rnd().to_le_bytes()); }
        let mut row = Vec::with_capacity(360); row.extend_from_slice(key.as_bytes()); row.extend_from_slice(&value); row.extend_from_slice(&[1;16]);
        let s = Instant::now();
        engine.newest(key.as_bytes(), i64::MAX).unwrap();
        engine.append(key.as_bytes(), Version { revision: Revision::new(main, 0), tombstone: false, row: row.into() }).unwrap();
        if i % batch == batch - 1 || i == n - 1 { engine.publish(Published { revision: main, applied: Applied { index: main as u64, term: 1 } }).unwrap(); }
        max = max.max(s.elapsed());
        if i % 500_000 == 499_999 {
            let io = std::fs::read_to_string("/proc/self/io").unwrap();
            let wb: u64 = io.lines().find(|l| l.starts_with("write_bytes")).unwrap().split(' ').nth(1).unwrap().parse().unwrap();
            let rss = std::fs::read_to_string("/proc/self/status").unwrap().lines().find(|l| l.starts_with("VmRSS")).unwrap().to_string();
            println!("{:>9} {:>7.0}/s  max {:?} written {} MB {rss}", i + 1, 500_000.0 / t.elapsed().as_secs_f64(), max, wb >> 20);
            t = Instant::now(); max = std::time::Duration::ZERO;
        }
    }
    println!("total {:?} cpu {}", t0.elapsed(), cpu());
    for s in engine.statistics() { println!("{} {}", s.name, s.value); }
    let at = engine.published().revision;
    for (what, limit) in [("scan 100k", 100_000u64), ("again", 100_000)] {
        let t = Instant::now();
        let (mut from, mut got) = (b"/registry/some/prefix/of/keys/that/is/rather/long/3".to_vec(), 0);
        while got < limit { let mut rows = Vec::new(); match engine.scan(KeyRange { start: &from, end: None }, at, (limit - got) as usize, &mut rows).unwrap() { Some(n) => from = n, None => break } got += rows.len() as u64; }
        println!("{what}: {got} {:?}", t.elapsed());
    }
    let t = Instant::now();
    let (mut from, mut c) = (Vec::new(), 0);
    while let Some(n) = engine.count(KeyRange { start: &from, end: None }, at, &mut c).unwrap() { from = n }
    println!("count {c} {:?}", t.elapsed());
    let t = Instant::now();
    let c0 = cpu();
    for _ in 0..100_000 { let k = (rnd() % n).wrapping_mul(0x9E3779B97F4A7C15); let key = format!("/registry/some/prefix/of/keys/that/is/rather/long/{k:016x}"); std::hint::black_box(engine.newest(key.as_bytes(), at).unwrap()); }
    println!("100k random newest {:?} cpu {}", t.elapsed(), cpu() - c0);
    let t = Instant::now();
    let (mut from, mut h) = (Revision::default(), 0usize);
    loop { let mut rows = Vec::new(); let next = engine.history(from, at, &mut rows).unwrap(); h += rows.len(); match next { Some(n) => from = n, None => break } }
    println!("history {h} {:?}", t.elapsed());
    let t = Instant::now();
    let (mut from, mut steps, mut maxs) = (Vec::new(), 0, std::time::Duration::ZERO);
    loop { let s = Instant::now(); let next = engine.compact_step(at, &from).unwrap(); maxs = maxs.max(s.elapsed()); steps += 1; match next { Some(n) => from = n, None => break } }
    println!("compaction {steps} steps {:?}, longest {:?}", t.elapsed(), maxs);
    let t = Instant::now(); engine.flush().unwrap(); println!("flush {:?}", t.elapsed());
    let t = Instant::now(); let c = engine.checkpoint().unwrap(); println!("checkpoint {:?}", t.elapsed()); drop(c);
    let t = Instant::now(); drop(engine); println!("close {:?}", t.elapsed());
    if a[3] != "memory" { let t = Instant::now(); let e = RocksDb::open(&path, RocksDbSettings::default()).unwrap(); println!("open {:?} {:?}", t.elapsed(), e.published()); }
}
