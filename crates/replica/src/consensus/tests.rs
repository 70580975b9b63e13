use raft::eraftpb::EntryType;

use super::*;

const TIMING: Timing = Timing { election_ticks: 10, pre_vote: true };

fn consensus(voters: &[u64]) -> Consensus {
    let hard_state = HardState { term: 1, commit: 1, ..HardState::default() };
    let conf_state = ConfState { voters: voters.to_vec(), ..ConfState::default() };
    let log = EntryLog::new(hard_state, conf_state, (1, 1));
    Consensus::new(1, TIMING, Portions::default(), log, 1).unwrap()
}

#[test]
fn a_leader_is_sole_leader_only_when_it_has_committed_in_its_term() {
    let mut consensus = consensus(&[1]);
    assert_eq!(consensus.propose("early".into()), Err(NotProposed::Dropped));
    assert_eq!(consensus.standing(), Standing { id: 1, term: 1, commit: 1, applied: 1, ..Standing::default() });
    assert!(consensus.campaign_if_alone());
    let elected = Standing { id: 1, role: Role::Leader, leader: 1, term: 2, commit: 1, applied: 1, sole_leader: false };
    assert_eq!(consensus.standing(), elected);
    let mut work = consensus.take().unwrap();
    let append = std::mem::take(&mut work.append);
    assert!(append.sync && append.entries.len() == 1 && work.committed.is_empty());
    assert_eq!((append.hard_state.term, append.hard_state.vote, append.hard_state.commit), (2, 1, 1));
    assert!(!consensus.standing().sole_leader, "not before it is durable");
    let committed = consensus.persisted(work).committed;
    assert_eq!(committed.iter().map(|entry| (entry.index, entry.term)).collect::<Vec<_>>(), [(2, 2)]);
    assert_eq!(consensus.standing(), Standing { commit: 2, sole_leader: true, ..elected });
    assert!(!consensus.campaign_if_alone(), "it leads");
    assert!(consensus.take().is_none());
}

#[test]
fn one_of_several_or_none_does_not_elect_itself() {
    for voters in [&[][..], &[1, 2, 3], &[2]] {
        let mut consensus = consensus(voters);
        assert!(!consensus.campaign_if_alone(), "{voters:?}");
        for _ in 0..100 {
            consensus.tick();
            while let Some(work) = consensus.take() {
                consensus.persisted(work);
            }
        }
        let standing = consensus.standing();
        assert!(!standing.is_leader() && !standing.sole_leader && standing.term == 1, "{voters:?}: {standing:?}");
    }
}

#[test]
fn what_only_a_leader_may_say_is_not_sent_on_to_another() {
    let mut consensus = consensus(&[1, 2, 3]);
    consensus.step(message(MessageType::MsgHeartbeat)).unwrap();
    assert_eq!(consensus.standing().leader, 2);
    assert_eq!(consensus.propose_as_leader(vec!["revoke".into()]), Err(NotProposed::Dropped));
    consensus.propose("put".into()).unwrap();
    let work = consensus.take().unwrap();
    let sent = consensus.persisted(work).messages;
    let proposed = sent.iter().filter(|message| message.get_msg_type() == MessageType::MsgPropose);
    let proposed: Vec<&[u8]> =
        proposed.flat_map(|message| message.entries.iter().map(|entry| &entry.data[..])).collect();
    assert_eq!(proposed, [b"put"]);
}

fn message(kind: MessageType) -> Message {
    let mut message = Message { to: 1, from: 2, term: 1, log_term: 1, index: 1, ..Message::default() };
    message.set_msg_type(kind);
    message
}

/// A round that is asked for again must not be confirmed by late confirmations of the first question. Other rounds have
/// begun between the two, and the followers that confirmed the first question have not heard of them.
#[test]
fn a_late_confirmation_confirms_no_later_round() {
    let mut leader = consensus(&[1, 2, 3]);
    leader.node.raft.become_candidate();
    leader.node.raft.become_leader();
    let mut held = message(MessageType::MsgAppendResponse);
    (held.term, held.index) = (leader.standing().term, 2);
    all_work(&mut leader);
    leader.step(held).unwrap();
    assert!(leader.node.raft.commit_to_current_term());
    let mut question = read_index(77);
    (question.to, question.from) = (1, 2);
    leader.step(question.clone()).unwrap();
    let heartbeat = |sent: Vec<Message>| sent.into_iter().find(|sent| sent.get_msg_type() == MessageType::MsgHeartbeat);
    let first = heartbeat(all_work(&mut leader)).unwrap();
    let confirmation = |of: &Message, from| {
        let mut confirmation = message(MessageType::MsgHeartbeatResponse);
        (confirmation.term, confirmation.from, confirmation.context) = (of.term, from, of.context.clone());
        confirmation
    };
    leader.step(confirmation(&first, 2)).unwrap();
    let answers = all_work(&mut leader);
    let answer = answers.iter().find(|sent| sent.get_msg_type() == MessageType::MsgReadIndexResp).unwrap();
    assert_eq!(answer.entries[0].data[..], 77u64.to_be_bytes(), "the name under which it was asked for");
    leader.read(88);
    all_work(&mut leader);
    leader.step(question).unwrap();
    leader.step(confirmation(&first, 3)).unwrap();
    let readable = |leader: &mut Consensus| {
        all_work(leader);
        let mut ids = Vec::new();
        leader.readable(u64::MAX, &mut ids);
        ids
    };
    assert_eq!(readable(&mut leader), [0; 0], "nobody has confirmed this round");
    let second = heartbeat({
        leader.tick();
        all_work(&mut leader)
    });
    leader.step(confirmation(&second.unwrap(), 3)).unwrap();
    assert_eq!(readable(&mut leader), [88]);
}

#[test]
fn a_candidate_of_an_earlier_term_is_told_so() {
    let (mut ahead, mut behind) = (consensus(&[1, 2]), consensus(&[1, 2]));
    let campaign = |candidate: &mut Consensus| {
        candidate.node.raft.become_candidate();
        all_work(candidate);
    };
    campaign(&mut behind);
    campaign(&mut ahead);
    campaign(&mut ahead);
    let mut request = message(MessageType::MsgRequestVote);
    request.term = behind.standing().term;
    assert!(request.term < ahead.standing().term);
    ahead.step(request).unwrap();
    let answers = all_work(&mut ahead);
    let [answer] = &answers[..] else { panic!("{answers:?}") };
    assert_eq!((answer.to, answer.reject), (2, true));
    let mut answer = answer.clone();
    (answer.to, answer.from) = (1, 2);
    behind.step(answer).unwrap();
    assert_eq!(behind.standing().term, ahead.standing().term);
}

/// Does all the work that is due; returns the messages that were sent.
fn all_work(consensus: &mut Consensus) -> Vec<Message> {
    let mut sent = Vec::new();
    while let Some(mut work) = consensus.take() {
        sent.append(&mut work.messages);
        let persisted = consensus.persisted(work);
        sent.extend(persisted.messages);
        if let Some(last) = persisted.committed.last() {
            consensus.applied(last.index, Retention::new(100));
        }
    }
    sent
}

/// A member that was removed while it led may still send entries to the one that is left.
#[test]
fn a_sole_voter_is_not_elected_before_its_log_is_durable() {
    let mut consensus = consensus(&[1]);
    let mut append = message(MessageType::MsgAppend);
    append.entries = vec![Entry { index: 2, term: 1, ..Entry::default() }].into();
    consensus.step(append).unwrap();
    (0..100).for_each(|_| consensus.tick());
    assert!(consensus.step(message(MessageType::MsgTimeoutNow)).is_err(), "nobody else votes");
    assert_eq!(consensus.standing().role, Role::Follower);
    while let Some(work) = consensus.take() {
        consensus.persisted(work);
    }
    assert!(consensus.campaign_if_alone());
}

#[test]
fn a_leader_that_was_removed_hands_over_and_goes_on_as_nobody() {
    let mut consensus = consensus(&[1, 2, 3]);
    consensus.node.raft.become_candidate();
    consensus.node.raft.become_leader();
    while let Some(work) = consensus.take() {
        consensus.persisted(work);
    }
    let acknowledged = Message { from: 3, term: 2, index: 2, ..message(MessageType::MsgAppendResponse) };
    consensus.step(acknowledged.clone()).unwrap();
    let removal = raftpb::ConfChange {
        r#type: Some(raftpb::ConfChangeType::ConfChangeRemoveNode as i32),
        node_id: Some(1),
        ..raftpb::ConfChange::default()
    };
    assert_eq!(consensus.change_members(3, &removal, false).unwrap().unwrap().voters.len(), 2);
    assert_eq!((consensus.standing().role, consensus.standing().leader), (Role::Follower, 0));
    let mut messages = Vec::new();
    while let Some(mut work) = consensus.take() {
        messages.append(&mut work.messages);
        messages.append(&mut consensus.persisted(work).messages);
    }
    let told: Vec<_> = messages.iter().filter(|message| message.get_msg_type() == MessageType::MsgTimeoutNow).collect();
    assert_eq!(told.iter().map(|message| message.to).collect::<Vec<_>>(), [3], "it has come furthest");
    consensus.step(acknowledged).unwrap();
    (0..100).for_each(|_| consensus.tick());
    assert_eq!(consensus.standing().role, Role::Follower);
}

#[test]
fn what_was_proposed_is_taken_up_before_leadership_is_handed_over() {
    let mut consensus = consensus(&[1, 2]);
    consensus.node.raft.become_candidate();
    consensus.node.raft.become_leader();
    consensus.propose("x".into()).unwrap();
    consensus.transfer_leader(2);
    assert_eq!(consensus.propose("y".into()), Err(NotProposed::Dropped));
    let entries = consensus.take().unwrap().append.entries;
    assert_eq!(entries.iter().map(|entry| &entry.data[..]).collect::<Vec<_>>(), [&b""[..], b"x"]);
}

#[test]
fn what_waits_for_commitment_is_bounded() {
    let mut consensus = consensus(&[1]);
    consensus.campaign_if_alone();
    let large = Bytes::from(vec![0; MAX_UNCOMMITTED_BYTES as usize / 4]);
    let taken = (0..8).take_while(|_| consensus.propose(large.clone()).is_ok()).count();
    assert_eq!(taken, 4);
}

/// The leader of three members. One follower holds everything; the other one lacks entries that the leader's log has
/// already dropped.
struct Behind {
    leader: Consensus,
    applied: u64,
    states: u64,
    keep: Retention,
}

const CLOSE: u64 = 2;
const LAGS: u64 = 3;

impl Behind {
    fn new(keep: Retention) -> Self {
        let mut leader = consensus(&[1, CLOSE, LAGS]);
        leader.node.raft.become_candidate();
        leader.node.raft.become_leader();
        let mut behind = Self { leader, applied: 1, states: 0, keep };
        behind.work();
        behind.write(100);
        assert!(behind.leader.node.raft.raft_log.first_index() > 50);
        behind.say(LAGS, MessageType::MsgHeartbeatResponse, 0);
        let term = behind.leader.standing().term;
        let lacks = Message { from: LAGS, term, index: 1, reject: true, ..message(MessageType::MsgAppendResponse) };
        behind.leader.step(lacks).unwrap();
        behind.work();
        assert_eq!(behind.states, 1);
        behind
    }

    fn work(&mut self) {
        while let Some(mut work) = self.leader.take() {
            let (mut sent, mut committed) = (std::mem::take(&mut work.messages), std::mem::take(&mut work.committed));
            let persisted = self.leader.persisted(work);
            sent.extend(persisted.messages);
            committed.extend(persisted.committed);
            self.states += sent.iter().filter(|sent| sent.get_msg_type() == MessageType::MsgSnapshot).count() as u64;
            if let Some(last) = committed.last() {
                self.applied = last.index;
                self.leader.applied(last.index, self.keep);
            }
        }
    }

    fn say(&mut self, from: u64, kind: MessageType, index: u64) {
        let term = self.leader.standing().term;
        self.leader.step(Message { from, term, index, ..message(kind) }).unwrap();
        self.work();
    }

    fn write(&mut self, entries: u64) {
        for _ in 0..entries {
            self.leader.propose("put".into()).unwrap();
            self.work();
            let last = self.leader.node.raft.raft_log.last_index();
            self.say(CLOSE, MessageType::MsgAppendResponse, last);
        }
    }

    fn held(&self) -> u64 {
        self.applied + 1 - self.leader.node.raft.raft_log.first_index()
    }
}

#[test]
fn a_follower_that_is_sent_a_state_needs_no_second_one_however_much_is_written_meanwhile() {
    let mut behind = Behind::new(Retention::new(10));
    let state = behind.applied;
    behind.write(500);
    assert_eq!(behind.held(), 500, "all behind the state");
    behind.leader.snapshot_sent(LAGS, true);
    behind.write(500);
    behind.say(LAGS, MessageType::MsgAppendResponse, state);
    behind.say(LAGS, MessageType::MsgAppendResponse, state + 400);
    behind.write(100);
    assert_eq!((behind.states, behind.held()), (1, 700), "what it has need not be held");
    behind.say(LAGS, MessageType::MsgAppendResponse, behind.applied);
    behind.write(500);
    assert_eq!((behind.states, behind.held()), (1, 10), "it is in step");
}

/// Regression (seed 3933): the new leader of a long log has many entries that are not committed. A follower close to
/// the last applied entry counted as in step, although later entries count, too, when the log is cut.
#[test]
fn a_follower_that_lacks_entries_which_are_not_committed_yet_is_not_in_step() {
    let mut behind = Behind::new(Retention::new(10));
    let state = behind.applied;
    for _ in 0..100 {
        behind.leader.propose("put".into()).unwrap();
    }
    behind.work();
    behind.leader.snapshot_sent(LAGS, true);
    behind.say(LAGS, MessageType::MsgAppendResponse, state);
    behind.say(LAGS, MessageType::MsgAppendResponse, state + 45);
    behind.say(CLOSE, MessageType::MsgAppendResponse, state + 50);
    assert_eq!((behind.applied, behind.held()), (state + 50, 5), "entry 46 behind the state is needed next");
    behind.say(CLOSE, MessageType::MsgAppendResponse, state + 100);
    behind.say(LAGS, MessageType::MsgAppendResponse, state + 100);
    behind.write(100);
    assert_eq!((behind.states, behind.held()), (1, 10), "it is in step");
}

#[test]
fn a_follower_that_is_heard_now_and_then_is_waited_for() {
    let mut behind = Behind::new(Retention::new(10));
    behind.write(100);
    for _ in 0..400 {
        behind.leader.tick();
        behind.say(CLOSE, MessageType::MsgHeartbeatResponse, 0);
        behind.say(LAGS, MessageType::MsgHeartbeatResponse, 0);
    }
    behind.write(1);
    assert_eq!(behind.held(), 101);
}

#[test]
fn entries_are_held_from_the_first_that_any_follower_needs() {
    let mut leader = consensus(&[1, CLOSE, LAGS]);
    leader.node.raft.become_candidate();
    leader.node.raft.become_leader();
    let (mut catching_up, raft) = (CatchingUp::default(), &mut leader.node.raft);
    for (follower, next) in [(CLOSE, 7), (LAGS, 5)] {
        raft.mut_prs().get_mut(follower).unwrap().next_idx = next;
        catching_up.begins(follower);
    }
    assert_eq!(catching_up.needed(raft.prs(), 2), Some(5));
    assert_eq!(catching_up.needed(raft.prs(), 6), Some(7), "what the other one needs is gone");
}

/// Another member leads, and knows what others lack.
#[test]
fn a_deposed_leader_holds_nothing_for_others() {
    let mut behind = Behind::new(Retention::new(10));
    behind.write(100);
    assert_eq!(behind.held(), 100);
    let (term, last) = (behind.leader.standing().term, behind.leader.node.raft.raft_log.last_index());
    let entry = |nth| Entry { index: last + nth, term: term + 1, ..Entry::default() };
    let from_successor = Message { term: term + 1, log_term: term, index: last, ..message(MessageType::MsgAppend) };
    let append =
        Message { commit: last + 100, entries: (1..=100).map(entry).collect::<Vec<_>>().into(), ..from_successor };
    behind.leader.step(append).unwrap();
    behind.work();
    assert_eq!((behind.leader.standing().role, behind.held()), (Role::Follower, 10));
}

#[test]
fn entries_are_not_held_for_a_follower_that_never_comes() {
    let mut behind = Behind::new(Retention { held_entries: 1000, ..Retention::new(10) });
    behind.write(900);
    assert_eq!(behind.held(), 900);
    behind.write(200);
    assert!(behind.held() <= 200, "{} entries are held beyond the bound", behind.held());
    behind.write(100);
    assert_eq!(behind.held(), 10, "what it needs is gone");

    let mut behind = Behind::new(Retention::new(10));
    behind.write(100);
    for _ in 0..400 {
        behind.leader.tick();
        behind.say(CLOSE, MessageType::MsgHeartbeatResponse, 0);
    }
    behind.write(1);
    assert_eq!(behind.held(), 10, "it has been silent for too long");
}

#[test]
fn a_state_that_did_not_arrive_is_sent_again_and_entries_are_held_behind_the_new_one() {
    let mut behind = Behind::new(Retention::new(10));
    behind.write(50);
    behind.leader.snapshot_sent(LAGS, false);
    behind.write(50);
    behind.say(LAGS, MessageType::MsgHeartbeatResponse, 0);
    assert_eq!(behind.states, 2);
    behind.write(300);
    assert_eq!(behind.held(), 300);
}

/// Consensus wants a state for the follower again and again, and none arrives.
#[test]
fn entries_are_not_held_for_a_follower_whose_state_never_arrives() {
    let mut behind = Behind::new(Retention::new(10));
    for states in 2..20 {
        behind.leader.snapshot_sent(LAGS, false);
        behind.write(50);
        assert_eq!(behind.held(), 10, "what it lacks is gone, and no state is under way");
        behind.say(LAGS, MessageType::MsgHeartbeatResponse, 0);
        assert_eq!(behind.states, states, "it is asked for again");
    }
    behind.leader.snapshot_sent(LAGS, false);
    // Another leader has sent it its database.
    behind.say(LAGS, MessageType::MsgAppendResponse, behind.applied - 5);
    behind.write(50);
    assert_eq!(behind.held(), 55, "it is in step but for these");
    behind.say(LAGS, MessageType::MsgAppendResponse, behind.applied);
    behind.write(1);
    assert_eq!(behind.held(), 10);
}

/// A follower of member 2, in term 1, with an entry that is not on the disk yet.
fn follower_with_an_entry() -> Consensus {
    let mut consensus = consensus(&[1, 2, 3]);
    let mut append = message(MessageType::MsgAppend);
    append.entries = vec![Entry { index: 2, term: 1, ..Entry::default() }].into();
    consensus.step(append).unwrap();
    consensus
}

fn vote(from: u64, term: u64) -> Message {
    Message { from, term, ..message(MessageType::MsgRequestVoteResponse) }
}

/// A candidate whose log is not on the disk yet must not become leader.
#[test]
fn votes_count_only_once_they_were_asked_for() {
    let mut candidate = follower_with_an_entry();
    // All of these messages arrive at once.
    candidate.step(vote(2, 2)).unwrap();
    candidate.step(message(MessageType::MsgTimeoutNow)).unwrap();
    assert_eq!((candidate.standing().role, candidate.standing().term), (Role::Candidate, 2));
    [2, 3].into_iter().for_each(|from| candidate.step(vote(from, 2)).unwrap());
    assert_eq!(candidate.standing().role, Role::Candidate, "nobody was asked yet");
    let asked = all_work(&mut candidate);
    assert!(asked.iter().any(|sent| sent.get_msg_type() == MessageType::MsgRequestVote && sent.to == 3));
    candidate.step(vote(2, 3)).unwrap();
    assert_eq!((candidate.standing().role, candidate.standing().term), (Role::Candidate, 2), "not in this term");
    candidate.step(vote(3, 2)).unwrap();
    assert_eq!(candidate.standing().role, Role::Leader);
    all_work(&mut candidate);
}

#[test]
fn votes_that_are_asked_for_beforehand_count_only_once_they_were_asked_for() {
    let mut candidate = consensus(&[1, 2, 3]);
    while candidate.standing().role == Role::Follower {
        candidate.tick();
    }
    let granted = |from, term| {
        let mut vote = vote(from, term);
        vote.set_msg_type(MessageType::MsgRequestPreVoteResponse);
        vote
    };
    candidate.step(granted(2, 2)).unwrap();
    assert_eq!((candidate.standing().role, candidate.standing().term), (Role::PreCandidate, 1));
    all_work(&mut candidate);
    for term in [1, 3] {
        candidate.step(granted(2, term)).unwrap();
        assert_eq!(candidate.standing().role, Role::PreCandidate, "not asked for in term {term}");
    }
    candidate.step(granted(2, 2)).unwrap();
    assert_eq!((candidate.standing().role, candidate.standing().term), (Role::Candidate, 2));
    candidate.step(vote(2, 2)).unwrap();
    assert_eq!(candidate.standing().role, Role::Candidate, "the election itself was not asked for yet");
    all_work(&mut candidate);
    candidate.step(vote(2, 2)).unwrap();
    assert_eq!(candidate.standing().role, Role::Leader);
}

/// It would count for votes that were not asked for, and end an election that has not begun.
#[test]
fn a_rejection_counts_only_once_it_was_asked_for_but_its_term_is_news() {
    let mut candidate = follower_with_an_entry();
    candidate.step(message(MessageType::MsgTimeoutNow)).unwrap();
    let rejected = |from, term| Message { reject: true, ..vote(from, term) };
    [2, 3].into_iter().for_each(|from| candidate.step(rejected(from, 2)).unwrap());
    assert_eq!(candidate.standing().role, Role::Candidate, "nobody was asked yet");
    candidate.step(rejected(3, 9)).unwrap();
    assert_eq!((candidate.standing().role, candidate.standing().term), (Role::Follower, 9));
}

/// The votes that are asked for beforehand bear no number of their own: those of one attempt look like those of the
/// next.
#[test]
fn a_late_vote_that_was_asked_for_beforehand_counts_for_no_later_attempt() {
    let mut candidate = consensus(&[1, 2, 3]);
    let campaign = |candidate: &mut Consensus| {
        while candidate.standing().role == Role::Follower {
            candidate.tick();
        }
    };
    campaign(&mut candidate);
    all_work(&mut candidate);
    candidate.step(message(MessageType::MsgHeartbeat)).unwrap();
    assert_eq!((candidate.standing().role, candidate.standing().leader), (Role::Follower, 2));
    campaign(&mut candidate);
    let mut granted = vote(3, 2);
    granted.set_msg_type(MessageType::MsgRequestPreVoteResponse);
    candidate.step(granted).unwrap();
    assert_eq!(
        (candidate.standing().role, candidate.standing().term),
        (Role::PreCandidate, 1),
        "nobody was asked again"
    );
}

/// A vote that arrives after its election does not count in a later one.
#[test]
fn a_late_vote_elects_nobody() {
    let mut candidate = follower_with_an_entry();
    candidate.step(message(MessageType::MsgTimeoutNow)).unwrap();
    all_work(&mut candidate);
    candidate.step(Message { term: 2, from: 3, ..message(MessageType::MsgHeartbeat) }).unwrap();
    candidate.step(Message { term: 2, from: 3, ..message(MessageType::MsgTimeoutNow) }).unwrap();
    assert_eq!((candidate.standing().role, candidate.standing().term), (Role::Candidate, 3));
    candidate.step(vote(2, 2)).unwrap();
    candidate.step(vote(2, 3)).unwrap();
    assert_eq!(candidate.standing().role, Role::Candidate);
}

#[test]
fn only_the_leader_hands_over() {
    let mut follower = follower_with_an_entry();
    for stranger in [
        Message { from: 3, ..message(MessageType::MsgTimeoutNow) },
        Message { term: 2, from: 3, ..message(MessageType::MsgTimeoutNow) },
        // It leads in term 1, as far as is known here.
        Message { term: 2, ..message(MessageType::MsgTimeoutNow) },
    ] {
        follower.step(stranger).unwrap();
        assert_eq!(
            (follower.standing().role, follower.standing().leader, follower.standing().term),
            (Role::Follower, 2, 1)
        );
    }
    follower.step(message(MessageType::MsgTimeoutNow)).unwrap();
    assert_eq!(follower.standing().role, Role::Candidate);
}

/// At the highest term no leader could be elected any more.
#[test]
fn no_message_takes_the_terms_to_their_end() {
    for kind in [
        MessageType::MsgAppend,
        MessageType::MsgAppendResponse,
        MessageType::MsgHeartbeat,
        MessageType::MsgHeartbeatResponse,
        MessageType::MsgRequestVote,
        MessageType::MsgRequestVoteResponse,
        MessageType::MsgRequestPreVote,
        MessageType::MsgRequestPreVoteResponse,
        MessageType::MsgTimeoutNow,
    ] {
        let mut consensus = consensus(&[1, 2, 3]);
        let of_term = |term| Message { term, reject: true, ..message(kind) };
        for term in [1 << 33, (u64::MAX >> 1) - 1, u64::MAX] {
            let refused = consensus.step(of_term(term));
            assert!(matches!(refused, Err(Rejected::Impossible { .. })), "{kind:?} of term {term}: {refused:?}");
            assert_eq!(consensus.standing().term, 1);
        }
        // A member that was away for a long time may have missed many elections.
        consensus.step(of_term(1_000_000)).unwrap();
        assert!([1, 1_000_000].contains(&consensus.standing().term), "{kind:?}");
    }
}

/// A member that joins knows no term, and takes that of the cluster.
#[test]
fn a_member_that_joins_takes_any_term() {
    let log = EntryLog::new(HardState::default(), ConfState::default(), (0, 0));
    let mut consensus = Consensus::new(1, TIMING, Portions::default(), log, 0).unwrap();
    consensus.step(Message { term: 1 << 40, commit: 0, ..message(MessageType::MsgHeartbeat) }).unwrap();
    assert_eq!((consensus.standing().term, consensus.standing().leader), (1 << 40, 2));
}

#[test]
fn an_answer_to_a_read_counts_only_if_it_was_asked_for() {
    let answer = |from, name: u64| {
        let mut answer = message(MessageType::MsgReadIndexResp);
        (answer.from, answer.index) = (from, 2);
        answer.entries = vec![Entry { data: Bytes::copy_from_slice(&name.to_be_bytes()), ..Entry::default() }].into();
        answer
    };
    let mut follower = follower_with_an_entry();
    all_work(&mut follower);
    follower.step(answer(2, 77)).unwrap();
    assert_eq!(follower.standing().commit, 1, "nobody asked");
    follower.read(77);
    follower.step(Message { commit: 1, ..message(MessageType::MsgHeartbeat) }).unwrap();
    // The round is asked for once an entry of the leader's term is committed.
    follower.step(Message { index: 2, commit: 2, ..message(MessageType::MsgAppend) }).unwrap();
    let asked = all_work(&mut follower);
    assert!(asked.iter().any(|sent| sent.get_msg_type() == MessageType::MsgReadIndex));
    let readable = |follower: &mut Consensus| {
        all_work(follower);
        let mut ids = Vec::new();
        follower.readable(2, &mut ids);
        ids
    };
    for wrong in [answer(3, 77), answer(2, 78)] {
        follower.step(wrong).unwrap();
        assert_eq!(readable(&mut follower), [0; 0]);
    }
    follower.step(answer(2, 77)).unwrap();
    assert_eq!(readable(&mut follower), [77]);
}

#[test]
fn rounds_that_no_quorum_confirms_are_bounded() {
    let mut leader = consensus(&[1, 2, 3]);
    leader.node.raft.become_candidate();
    leader.node.raft.become_leader();
    all_work(&mut leader);
    leader.step(Message { term: 2, index: 2, ..message(MessageType::MsgAppendResponse) }).unwrap();
    for name in 0..MAX_READ_ROUNDS as u64 + 10 {
        leader.step(Message { from: 2, to: 1, ..read_index(name) }).unwrap();
    }
    assert_eq!(leader.node.raft.read_only.pending_read_count(), MAX_READ_ROUNDS);
}

#[test]
fn what_no_record_holds_is_neither_proposed_nor_taken() {
    let mut sole = consensus(&[1]);
    sole.campaign_if_alone();
    all_work(&mut sole);
    let data = Bytes::from(vec![0; crate::wal::MAX_ENTRY_BYTES + 1]);
    assert_eq!(sole.propose(data.clone()), Err(NotProposed::TooLarge));
    let large = raftpb::ConfChange { context: Some(data.clone()), ..raftpb::ConfChange::default() };
    assert_eq!(sole.propose_change(&large), Err(NotProposed::Inapplicable), "it is no JSON either");
    let mut follower = consensus(&[1, 2, 3]);
    let mut append = message(MessageType::MsgAppend);
    let command = Entry { index: 2, term: 1, data: data.clone(), ..Entry::default() };
    let mut change = Entry { index: 2, term: 1, context: data.clone(), ..Entry::default() };
    change.set_entry_type(EntryType::EntryConfChange);
    for entry in [command, change] {
        append.entries = vec![entry].into();
        assert!(follower.step(append.clone()).unwrap_err().to_string().contains("a record of the log holds"));
    }
    let mut proposal = Message { term: 0, ..message(MessageType::MsgPropose) };
    proposal.entries = vec![Entry { data, ..Entry::default() }].into();
    assert!(sole.step(proposal).unwrap_err().to_string().contains("a record of the log holds"));
}
