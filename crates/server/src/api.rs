//! The client API: each service in a file, from the request's check to the encoded reply.
//!
//! A handler is plain: check the message as etcd does, read or propose through [`MemberHandle`], encode.

mod auth;
pub mod check;
mod cluster;
pub(crate) mod defragment;
mod downgrade;
mod election;
mod encode;
mod kv;
mod lease;
mod lock;
mod maintenance;
mod own_calls;
mod queue;
mod snapshot;
mod view;
mod watch;

pub use watch::Watchers;

use std::rc::{Rc, Weak};

use crate::audit::{Open, Subjects};
use crate::auth::methods::Method;
use crate::grpc::{Call, Router};
use crate::member::MemberHandle;

/// Adds every service to a worker's router. `own` is that router, for services that call others.
pub fn register(router: &mut Router, member: &Rc<MemberHandle>, watchers: &Rc<Watchers>, own: &Weak<Router>) {
    kv::register(router, member);
    watch::register(router, member, watchers);
    lease::register(router, member);
    maintenance::register(router, member);
    snapshot::register(router, member);
    cluster::register(router, member);
    auth::register(router, member);
    lock::register(router, member, own);
    election::register(router, member, own);
}

/// Adds a unary method that learners do not serve, and whose caller has what the method's row in the permission table
/// asks for. The handler is `async fn(&MemberHandle, Call, T) -> Result<Frame, _>`.
macro_rules! unary {
    ($router:expr, $member:expr, $service:expr, $method:literal, $handler:path) => {
        $crate::api::served!($router, $member, $service, $method, $handler, admit)
    };
}
use unary;

/// The same for a method that a learner serves, too, or whose handler decides that itself.
macro_rules! unary_on_learners {
    ($router:expr, $member:expr, $service:expr, $method:literal, $handler:path) => {
        $crate::api::served!($router, $member, $service, $method, $handler, admit_anywhere)
    };
}
use unary_on_learners;

macro_rules! served {
    ($router:expr, $member:expr, $service:expr, $method:literal, $handler:path, $admit:ident) => {{
        let (member, method) = ($member.clone(), $crate::auth::methods::method($service, $method));
        $router.unary($service, $method, move |mut call, request| {
            let member = member.clone();
            async move {
                let mut audit = $crate::api::audited(&member, method, &call, &request);
                let answer = async {
                    let admitted = member.$admit(&mut call, method.need).await;
                    audit.iter_mut().for_each(|open| open.identified(&call, &call.caller));
                    admitted?;
                    $handler(&member, call, request).await
                };
                let answer = answer.await;
                audit.into_iter().for_each(|open| open.close(&answer));
                answer
            }
        });
    }};
}
use served;

/// Begins the record of a call in the audit log, if there is one.
fn audited(member: &MemberHandle, method: Method, call: &Call, request: &impl Subjects) -> Option<Open> {
    member.audit.open(method.name, method.effect, call, || request.subject())
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use metastore_store::watch::Limits;
    use tokio::sync::watch;

    use super::*;
    use crate::auth::methods;
    use crate::grpc::{Ledger, health};
    use crate::member::fake_engine::FakeEngine;

    #[tokio::test(flavor = "local")]
    async fn the_permission_table_has_a_row_for_each_method_and_no_other() {
        let member = FakeEngine::new(&["http://127.0.0.1:1"]).member;
        let watchers = Watchers::new(member.shared.views.clone(), Limits::new(1, 1), Default::default());
        let mut router = Router::new(1, Ledger::default(), watch::channel(false).1);
        register(&mut router, &member, &watchers, &Weak::new());
        health::register(&mut router, watch::channel(true).1);
        let registered: BTreeSet<_> = router.paths().map(str::to_owned).collect();
        assert_eq!(registered, methods::paths().collect());
    }
}
