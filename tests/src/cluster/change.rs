//! Membership and leadership, changed through the API, as an operator would.

use metastore_proto::etcdserverpb::Member;

use super::{Cluster, PATIENCE, State};
use crate::member::free_address;
use crate::membership::*;
use crate::paths;
use crate::programs::{Harness, Server};

impl Cluster {
    /// Adds a member through the leader, starts it, waits until it has caught up, and returns its number.
    pub fn add(&mut self, server: &Server, is_learner: bool) -> usize {
        let node = self.seat(server);
        self.announce(node, is_learner);
        self.launch(node);
        self.wait_until_learned(node);
        node
    }

    /// Gives a node whose disk is empty a new member id, without starting it.
    pub fn announce(&mut self, node: usize, is_learner: bool) {
        let request = AddRequest { peer_urls: vec![self.nodes[node].member.peer_url()], is_learner };
        // A leader that connected to its members only just now refuses with "unhealthy cluster".
        let added: AddResponse = self.eventually("a member is added", |cluster| {
            cluster.call(cluster.leader(), paths::MEMBER_ADD, request.clone()).ok()
        });
        let new = added.member.expect("the answer shows the new member").id;
        let name = |member: &Member| {
            let name = if member.id == new { &self.nodes[node].member.identity().name } else { &member.name };
            member.peer_ur_ls.iter().map(|url| format!("{name}={url}")).collect::<Vec<_>>().join(",")
        };
        let all: Vec<String> = added.members.iter().map(name).collect();
        self.configure(node, &all.join(","), "existing");
        self.nodes[node].learner = is_learner;
    }

    /// A learner logs "ready" when it serves. Its /health proves nothing, because that needs a linearizable read, which
    /// a learner refuses. Under load a member never holds all that the leader has written at the same moment, so it is
    /// to reach the revision of now.
    fn wait_until_learned(&mut self, node: usize) {
        let written =
            self.eventually("the leader tells its revision", |cluster| cluster.revision(cluster.leader()).ok());
        self.eventually(&format!("node {node} has caught up"), |cluster| {
            (cluster.revision(node).ok()? >= written).then_some(())
        });
        self.learn_id(node);
    }

    /// Makes a learner a voter, as soon as the leader agrees.
    pub fn promote(&mut self, node: usize) {
        let id = self.nodes[node].id;
        let _: MembersResponse = self.eventually(&format!("node {node} is promoted"), |cluster| {
            cluster.call(cluster.leader(), paths::MEMBER_PROMOTE, IdRequest { id }).ok()
        });
        // It accepts writes only once it has applied its own promotion.
        let told = |cluster: &Cluster| (!cluster.status(node).ok()?.is_learner).then_some(());
        self.eventually(&format!("node {node} takes itself for a voter"), told);
        self.nodes[node].learner = false;
    }

    /// Removes a member through another one. If its process runs, it must end by itself.
    pub fn remove(&mut self, node: usize) {
        let id = self.nodes[node].id;
        let through = self.voters().into_iter().find(|other| *other != node).expect("another member runs");
        let _: MembersResponse = self.eventually(&format!("node {node} is removed"), |cluster| {
            cluster.call(through, paths::MEMBER_REMOVE, IdRequest { id }).ok()
        });
        if self.nodes[node].member.is_started() {
            self.ends_in_success(node);
        }
        self.nodes[node].state = State::Left;
    }

    /// Waits until a removed node has ended by itself, and returns its log. A process must end with success, so that no
    /// supervisor restarts it.
    pub fn ends_in_success(&mut self, node: usize) -> Vec<String> {
        let member = &mut self.nodes[node].member;
        if member.server().harness == Harness::Inside {
            return self.wait_exit(node);
        }
        let status = member.wait_exit(PATIENCE).unwrap_or_else(|| panic!("node {node} goes on: {:#?}", member.log()));
        assert!(status.success(), "node {node}: {status}: {:#?}", member.log());
        member.log()
    }

    /// Lets a node that left, or whose disk was emptied, be announced again.
    pub fn forget(&mut self, node: usize) {
        self.nodes[node].state = State::Down;
    }

    /// Starts an announced node, and waits until it has caught up.
    pub fn join(&mut self, node: usize) {
        self.launch(node);
        self.wait_until_learned(node);
    }

    /// Announces another peer address for a node, and restarts it there.
    pub fn move_peer_address(&mut self, node: usize) {
        let id = self.nodes[node].id;
        let address = free_address();
        let request = UpdateRequest { id, peer_urls: vec![format!("http://{address}")] };
        let _: MembersResponse = self.eventually("a peer URL is changed", |cluster| {
            cluster.call(cluster.leader(), paths::MEMBER_UPDATE, request.clone()).ok()
        });
        self.stop(node);
        self.nodes[node].member.move_peer_address(address);
        let all = self.initial_cluster();
        self.configure(node, &all, "existing");
        self.restart(node);
    }

    /// Hands leadership to `to`, and waits until it leads.
    pub fn move_leader(&self, to: usize) {
        let target = self.nodes[to].id;
        let request = MoveLeaderRequest { target };
        let moved: Result<MoveLeaderResponse, _> = self.call(self.leader(), paths::MOVE_LEADER, request);
        moved.unwrap_or_else(|status| panic!("leadership is not moved: {status}"));
        assert_eq!(self.leader(), to, "leadership went elsewhere");
    }
}
