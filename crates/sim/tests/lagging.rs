//! A member that lacks more entries than the others keep in the log receives a whole state, from any engine to any
//! engine.

use metastore_proto::etcdserverpb::{CompactionRequest, PutRequest};
use metastore_proto::raftpb::Message;
use metastore_replica::disk::CrashPolicy;
use metastore_replica::wal::Options;
use metastore_replica::{Output, Settings, Timing};
use metastore_store::command::{Command, Kind};
use metastore_store::mvcc::HashKv;

use metastore_sim::machine::{EngineKind, Machine};
use metastore_sim::member::{ELECTION_TICKS, Member, SEGMENT_BYTES};

const KEEP_ENTRIES: usize = 8;
/// Ticks within which a cluster without faults has done everything that was requested.
const PATIENCE_TICKS: usize = 400;
/// Neither a divisor nor a multiple of any size in a stream.
const PIECE_BYTES: usize = 333;

/// Three members in a network without losses, except for messages to or from the member that is cut off.
struct Trio {
    members: Vec<Member>,
    cut_off: Option<usize>,
    id: u64,
    /// States that members took up.
    taken_up: usize,
}

impl Trio {
    fn new(engines: [EngineKind; 3]) -> Self {
        let member = |(at, engine): (usize, EngineKind)| {
            let timing = Timing { election_ticks: ELECTION_TICKS, pre_vote: true };
            let mut settings = Settings::new(EngineKind::name(engine), timing, KEEP_ENTRIES);
            settings.log = Options { segment_bytes: SEGMENT_BYTES };
            let mut member = Member::founding(at, 3, Machine::new(engine), settings);
            member.start().unwrap();
            member
        };
        Self { members: (0..).zip(engines).map(member).collect(), cut_off: None, id: 0, taken_up: 0 }
    }

    fn tick(&mut self) {
        for at in 0..3 {
            self.members[at].jump();
            let mut output = Output::default();
            self.members[at].work(&mut output, u64::MAX).unwrap();
            self.taken_up += usize::from(output.state_replaced);
            for retired in output.retired {
                assert!(retired.is_unused());
                retired.remove().unwrap();
            }
            for message in self.members[at].letters().0 {
                let to = self.position(message.to());
                if ![Some(at), Some(to)].contains(&self.cut_off) {
                    self.members[to].step(message).unwrap().unwrap();
                }
            }
            for message in output.states_wanted {
                self.send_state(at, message);
            }
        }
    }

    fn position(&self, id: u64) -> usize {
        self.members.iter().position(|member| member.id == id).expect("a member")
    }

    fn send_state(&mut self, at: usize, message: Message) {
        let to = self.position(message.to());
        let arrives = ![Some(at), Some(to)].contains(&self.cut_off);
        let sender = self.members[at].replica.as_mut().unwrap();
        if arrives {
            let (message, source) = sender.state_to_send().unwrap().open(message).unwrap();
            let receiver = self.members[to].replica.as_mut().unwrap();
            let mut incoming = receiver.receiver().begin(message).unwrap();
            source
                .write(|bytes| {
                    bytes.chunks(PIECE_BYTES).try_for_each(|piece| incoming.take(piece).map_err(std::io::Error::other))
                })
                .unwrap();
            receiver.state_received(incoming.finish().unwrap()).unwrap();
        }
        let id = self.members[to].id;
        self.members[at].replica.as_mut().unwrap().state_sent(id, arrives);
    }

    fn until(&mut self, what: &str, done: impl Fn(&Self) -> bool) {
        for _ in 0..PATIENCE_TICKS {
            if done(self) {
                return;
            }
            self.tick();
        }
        panic!("never: {what}; members stand at {:?}", self.members.iter().map(Member::applied).collect::<Vec<_>>());
    }

    fn leader(&self) -> Option<usize> {
        (0..3).find(|at| Some(*at) != self.cut_off && self.members[*at].leads())
    }

    /// Puts `count` keys, one entry each, and waits until all reachable members have them.
    fn put(&mut self, count: usize) {
        self.until("a leader", |trio| trio.leader().is_some());
        let leader = self.leader().unwrap();
        for _ in 0..count {
            self.id += 1;
            let (key, value) = (format!("k{}", self.id % 5).into(), format!("{}", self.id).repeat(50).into());
            let put = Command::encode(self.id, Kind::Put, &PutRequest { key, value, ..PutRequest::default() });
            self.members[leader].replica.as_mut().unwrap().propose(put).unwrap();
            self.tick();
        }
        self.until("applied by all that are reached", |trio| {
            let reached = (0..3).filter(|at| Some(*at) != trio.cut_off);
            let revision = trio.id as i64 + 1;
            reached.into_iter().all(|at| trio.members[at].revision() == revision)
        });
    }

    fn compact(&mut self, revision: i64) {
        let leader = self.leader().unwrap();
        let request = CompactionRequest { revision, physical: false };
        let compaction = Command::encode(0, Kind::Compaction, &request);
        self.members[leader].replica.as_mut().unwrap().propose(compaction).unwrap();
        let compacted =
            move |member: &Member| member.replica.as_ref().unwrap().store().view().compact_revision() == revision;
        self.until("compacted", |trio| {
            (0..3).filter(|at| Some(*at) != trio.cut_off).all(|at| compacted(&trio.members[at]))
        });
    }

    fn check_equal(&self) {
        let hash = |member: &Member| member.replica.as_ref().unwrap().store().view().hash_kv(0).unwrap();
        let hashes: Vec<HashKv> = self.members.iter().map(hash).collect();
        assert!(hashes.windows(2).all(|pair| pair[0] == pair[1]), "{hashes:?}");
    }
}

fn catches_up(engines: [EngineKind; 3]) {
    let mut trio = Trio::new(engines);
    trio.put(20);
    let (leader, behind) = (trio.leader().unwrap(), (trio.leader().unwrap() + 1) % 3);
    trio.cut_off = Some(behind);
    trio.put(10 * KEEP_ENTRIES);
    trio.compact(40);
    trio.put(2 * KEEP_ENTRIES);
    assert_eq!(trio.taken_up, 0);
    trio.cut_off = None;
    trio.put(1);
    assert_eq!(trio.taken_up, 1, "{engines:?}, {behind} from {leader}");
    trio.check_equal();
    // Further entries arrive through the log, before and after a power loss of all members.
    trio.put(5);
    for at in 0..3 {
        trio.members[at].crash(CrashPolicy::DropUnsynced);
        trio.members[at].start().unwrap();
    }
    trio.put(3);
    // The returned member can also lead, and send a state itself.
    let leader = trio.leader().unwrap();
    if leader != behind {
        let id = trio.members[behind].id;
        trio.members[leader].replica.as_mut().unwrap().transfer_leader(id);
        trio.until("leadership is handed over", |trio| trio.leader() == Some(behind));
    }
    let other = (behind + 1) % 3;
    trio.cut_off = Some(other);
    trio.put(5 * KEEP_ENTRIES);
    trio.cut_off = None;
    trio.put(1);
    assert_eq!(trio.taken_up, 2, "{engines:?}, {other} from {behind}");
    trio.check_equal();
}

#[test]
fn who_lags_behind_catches_up_by_a_state() {
    let (memory, rocksdb) = (EngineKind::Memory, EngineKind::RocksDb);
    for engines in
        [[memory; 3], [rocksdb; 3], [memory, rocksdb, memory], [rocksdb, memory, rocksdb], [rocksdb, rocksdb, memory]]
    {
        catches_up(engines);
    }
}
