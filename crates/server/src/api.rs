//! The client API: each service in a file, from the request's check to the encoded reply.
//!
//! A handler is plain: check the message as etcd does, read or propose through [`MemberHandle`], encode.

mod auth;
pub mod check;
mod cluster;
pub(crate) mod defragment;
mod encode;
mod kv;
mod lease;
mod maintenance;
mod unimplemented;
mod view;
mod watch;

pub use watch::Watchers;

use std::rc::Rc;

use crate::grpc::Router;
use crate::member::MemberHandle;

/// Adds every service to a worker's router.
pub fn register(router: &mut Router, member: &Rc<MemberHandle>, watchers: &Rc<Watchers>) {
    kv::register(router, member);
    watch::register(router, member, watchers);
    lease::register(router, member);
    maintenance::register(router, member);
    cluster::register(router, member);
    auth::register(router, member);
    unimplemented::register(router, member);
}

/// Adds a unary method that learners do not serve, and whose caller has what the method's row in the permission table
/// asks for. The handler is
/// `async fn(&MemberHandle, Call, T) -> Result<Frame, _>`.
macro_rules! unary {
    ($router:expr, $member:expr, $service:expr, $method:literal, $handler:path) => {{
        let (member, need) = ($member.clone(), $crate::auth::methods::need_of($service, $method));
        $router.unary($service, $method, move |mut call, request| {
            let member = member.clone();
            async move {
                member.admit(&mut call, need).await?;
                $handler(&member, call, request).await
            }
        });
    }};
}
use unary;

/// The same for a method that a learner serves, too, or whose handler decides that itself.
macro_rules! unary_on_learners {
    ($router:expr, $member:expr, $service:expr, $method:literal, $handler:path) => {{
        let (member, need) = ($member.clone(), $crate::auth::methods::need_of($service, $method));
        $router.unary($service, $method, move |mut call, request| {
            let member = member.clone();
            async move {
                member.admit_anywhere(&mut call, need).await?;
                $handler(&member, call, request).await
            }
        });
    }};
}
use unary_on_learners;
