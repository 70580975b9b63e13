//! The Watch service: streams of one worker, all served by that worker's hub.
//!
//! ```text
//!   mailbox ─▶ Watchers::publish ─▶ Hub ─▶ woken streams ─▶ one task per stream ─▶ Outbound
//! ```

use std::cell::{Cell, RefCell};
use std::collections::HashMap;
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use bytes::BytesMut;
use metastore_proto::etcdserverpb::watch_create_request::FilterType;
use metastore_proto::etcdserverpb::watch_request::RequestUnion;
use metastore_proto::etcdserverpb::{WatchCreateRequest, WatchRequest};
use metastore_store::Access;
use metastore_store::mvcc::Views;
use metastore_store::watch::{self, Counts, Events, Hub, Limits, RevisionEvents, StreamId, WatchSpec};
use tokio::sync::Notify;
use tokio::time::{Duration, Instant};

use super::audited;
use crate::auth::methods::{self, Method};
use crate::driver::EventSink;
use crate::grpc::{Call, Frame, Inbound, Outbound, Router, Status};
use crate::member::{LeaderWatch, MemberHandle, errors};
use crate::shared::WorkerFlags;

const SERVICE: &str = "etcdserverpb.Watch";
/// How often progress intervals are checked. It is also the shortest interval.
const PROGRESS_TICK: Duration = Duration::from_millis(100);

/// All watches of one worker.
pub struct Watchers {
    hub: RefCell<Hub>,
    streams: RefCell<HashMap<StreamId, Rc<Notify>>>,
    flags: Arc<WorkerFlags>,
    /// Notified when a watcher may have history to read.
    behind: Notify,
    started: Instant,
    open: Cell<usize>,
}

impl Watchers {
    /// The hub always reads the current state. When another state replaces it, the events of the old state are lost.
    pub fn new(views: Views, limits: Limits, flags: Arc<WorkerFlags>) -> Rc<Self> {
        Rc::new(Self {
            hub: RefCell::new(Hub::new(Arc::new(views), limits)),
            streams: RefCell::default(),
            flags,
            behind: Notify::new(),
            started: Instant::now(),
            open: Cell::new(0),
        })
    }

    /// Reads history for watchers that are behind, in bounded steps with room for other work between them. To be
    /// spawned on the worker.
    pub async fn read_history(self: Rc<Self>) {
        loop {
            let more = self.hub.borrow_mut().catch_up();
            match more {
                Ok(true) => {
                    self.wake();
                    tokio::task::yield_now().await;
                }
                Ok(false) => {
                    self.wake_streams();
                    self.behind.notified().await;
                }
                Err(error) => {
                    // The engine thread meets the same disk failure and stops the member.
                    tracing::error!(error = %error, "cannot read history for watchers");
                    return;
                }
            }
        }
    }

    fn wake_streams(&self) {
        let streams = self.streams.borrow();
        let mut hub = self.hub.borrow_mut();
        while let Some(stream) = hub.next_woken() {
            if let Some(notify) = streams.get(&stream) {
                notify.notify_one();
            }
        }
    }

    /// Sends progress notifications to watchers without events. To be spawned on the worker.
    pub async fn report_progress(self: Rc<Self>) {
        let mut ticks = tokio::time::interval(PROGRESS_TICK);
        loop {
            ticks.tick().await;
            if self.open.get() > 0 {
                self.hub.borrow_mut().tick(self.now_ms());
                self.wake_streams();
            }
            self.show_counts();
        }
    }

    /// Called before the answer about a watcher or stream that was opened or closed: the client may then read metrics.
    fn show_sizes(&self) {
        let (streams, watchers) = self.hub.borrow().sizes();
        self.flags.watches.streams.store(streams as u64, Ordering::Relaxed);
        self.flags.watches.watchers.store(watchers as u64, Ordering::Relaxed);
    }

    fn show_counts(&self) {
        let Counts { streams, watchers, unsynced, events, queued, .. } = self.hub.borrow().counts();
        let shown = &self.flags.watches;
        shown.streams.store(streams as u64, Ordering::Relaxed);
        shown.watchers.store(watchers as u64, Ordering::Relaxed);
        shown.slow.store(unsynced as u64, Ordering::Relaxed);
        shown.events.store(events, Ordering::Relaxed);
        shown.queued.store(queued as u64, Ordering::Relaxed);
    }

    fn now_ms(&self) -> u64 {
        self.started.elapsed().as_millis() as u64
    }

    fn open(self: &Rc<Self>) -> Stream {
        let id = self.hub.borrow_mut().open_stream(self.now_ms());
        let notify = Rc::new(Notify::new());
        self.streams.borrow_mut().insert(id, notify.clone());
        self.open.set(self.open.get() + 1);
        self.flags.set_watched(true);
        self.show_sizes();
        Stream { watchers: self.clone(), id, notify }
    }
}

impl EventSink for Rc<Watchers> {
    fn publish(&self, events: &Arc<RevisionEvents>, bytes: usize) {
        self.flags.free_room(bytes);
        self.hub.borrow_mut().publish(events);
    }

    /// All watchers read history.
    fn lost(&self) {
        self.hub.borrow_mut().lost();
    }

    /// Wakes the streams that have responses to send, and the task that reads history.
    fn wake(&self) {
        self.wake_streams();
        self.behind.notify_one();
    }
}

/// One client's stream; dropping it frees everything that it holds.
struct Stream {
    watchers: Rc<Watchers>,
    id: StreamId,
    notify: Rc<Notify>,
}

impl Drop for Stream {
    fn drop(&mut self) {
        let watchers = &self.watchers;
        watchers.hub.borrow_mut().close_stream(self.id);
        watchers.streams.borrow_mut().remove(&self.id);
        watchers.open.set(watchers.open.get() - 1);
        watchers.flags.set_watched(watchers.open.get() > 0);
        watchers.show_sizes();
    }
}

pub fn register(router: &mut Router, member: &Rc<MemberHandle>, watchers: &Rc<Watchers>) {
    let (member, watchers) = (member.clone(), watchers.clone());
    let method = methods::method(SERVICE, "Watch");
    router.bidi(SERVICE, "Watch", move |call, inbound, outbound| {
        serve(member.clone(), watchers.clone(), method, call, inbound, outbound)
    });
}

/// The caller of a stream is found out each time that it creates a watcher: a token may have expired since the stream
/// was opened. As in etcd, a watcher goes on after its user lost the permission.
async fn serve(
    member: Rc<MemberHandle>,
    watchers: Rc<Watchers>,
    method: Method,
    call: Call,
    mut inbound: Inbound<WatchRequest>,
    mut outbound: Outbound,
) -> Result<(), Status> {
    member.check_learner()?;
    member.check_leader(&call)?;
    let stream = watchers.open();
    let mut leader = LeaderWatch::new(&member, &call);
    // A client that has closed its half asks for nothing more; its watchers go on until the stream ends, as in etcd.
    let mut asks = true;
    loop {
        let accepts = asks && watchers.hub.borrow().accepts_requests(stream.id);
        tokio::select! {
            request = inbound.next(), if accepts => match request? {
                Some(request) => {
                    let refused = may_watch(&member, method, &call, &request).await.err();
                    stream.request(request, refused);
                    watchers.show_sizes();
                }
                None => asks = false,
            },
            () = stream.notify.notified() => {}
            status = leader.lost() => return Err(status),
        }
        if !stream.send_all(&member, &mut outbound).await? {
            return Ok(());
        }
    }
}

impl Stream {
    fn request(&self, request: WatchRequest, refused: Option<Status>) {
        let mut hub = self.watchers.hub.borrow_mut();
        match request.request_union {
            Some(RequestUnion::CreateRequest(_)) if let Some(status) = refused => {
                hub.refuse(self.id, status.to_string());
            }
            Some(RequestUnion::CreateRequest(request)) => {
                hub.create(self.id, &spec(&request));
                self.watchers.behind.notify_one();
            }
            Some(RequestUnion::CancelRequest(request)) => hub.cancel(self.id, request.watch_id),
            Some(RequestUnion::ProgressRequest(_)) => hub.progress(self.id),
            None => {}
        }
    }

    /// Sends what is queued; false if the client has gone.
    async fn send_all(&self, member: &MemberHandle, outbound: &mut Outbound) -> Result<bool, Status> {
        loop {
            // A response is taken only when there is room to send it: the hub bounds the responses that wait.
            if outbound.ready().await.is_err() {
                return Ok(false);
            }
            let taken = self.watchers.hub.borrow_mut().take(self.id);
            self.watchers.behind.notify_one();
            let Some(response) = taken else { return Ok(true) };
            let header = watch::Header {
                cluster_id: member.shared.cluster_id,
                member_id: member.shared.member_id,
                raft_term: member.shared.term(),
            };
            let (began, figures) = (std::time::Instant::now(), &member.counts().watch_sends);
            let (control, events) =
                (response.created || response.canceled, response.events.as_ref().map_or(0, Events::count));
            if !send(response, &header, outbound).await? {
                return Ok(false);
            }
            let took = began.elapsed();
            if events > 0 {
                figures.events.observe_time(took);
                figures.per_event.observe_time(took / events as u32);
            } else if control {
                figures.control.observe_time(took);
            } else {
                figures.progress.observe_time(took);
            }
        }
    }
}

async fn send(response: watch::Response, header: &watch::Header, outbound: &mut Outbound) -> Result<bool, Status> {
    let length = response.encoded_len(header);
    if length <= watch::PIECE_BYTES {
        let mut bytes = BytesMut::with_capacity(length);
        response.encode(header, &mut bytes);
        let frame = Frame::write(length, |out| out.extend_from_slice(&bytes))?;
        return Ok(outbound.send(frame).await.is_ok());
    }
    let Ok(mut pieces) = outbound.begin(length).await? else { return Ok(false) };
    for piece in response.pieces(header) {
        if pieces.push(piece).await.is_err() {
            return Ok(false);
        }
    }
    Ok(true)
}

/// Whether the caller may create a watcher. The range is understood as the hub does. As in etcd, a negative start
/// revision is refused before that.
async fn may_watch(member: &MemberHandle, method: Method, call: &Call, request: &WatchRequest) -> Result<(), Status> {
    let Some(RequestUnion::CreateRequest(request)) = &request.request_union else { return Ok(()) };
    let mut audit = audited(member, method, call, request);
    let allowed = async {
        if request.start_revision < 0 || !member.shared.auth_enabled() {
            return Ok(());
        }
        let caller = member.caller_of(call, method.need).await?;
        audit.iter_mut().for_each(|open| open.identified(call, &caller));
        let Some(auth) = member.view().auth() else { return Ok(()) };
        let key: &[u8] = if request.key.is_empty() { &[0] } else { &request.key };
        auth.permits(&caller, Access::Read, key, &request.range_end).map_err(errors::refused)
    };
    let allowed = allowed.await;
    audit.into_iter().for_each(|open| open.close(&allowed));
    allowed
}

fn spec(request: &WatchCreateRequest) -> WatchSpec<'_> {
    let filtered = |kind: FilterType| request.filters.contains(&(kind as i32));
    WatchSpec {
        key: &request.key,
        range_end: &request.range_end,
        start_revision: request.start_revision,
        prev_kv: request.prev_kv,
        no_put: filtered(FilterType::Noput),
        no_delete: filtered(FilterType::Nodelete),
        fragment: request.fragment,
        progress_notify: request.progress_notify,
        watch_id: request.watch_id,
    }
}
