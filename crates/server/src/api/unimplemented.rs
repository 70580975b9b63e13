//! Unimplemented methods of etcd's API: they answer with an error that says so (`docs/limitations.md`), rather than as
//! if the service were unknown.

use std::rc::Rc;

use crate::auth::methods;
use crate::grpc::{Frame, Router, Status};
use crate::member::MemberHandle;

const SERVICE: &str = "etcdserverpb.Maintenance";

const METHODS: [&str; 1] = ["Downgrade"];

/// The answer of an unimplemented method.
pub fn unimplemented(service: &str, what: &str) -> Status {
    Status::unimplemented(format!("etcdserver: {service}: {what} is not implemented by this version of MetaStore"))
}

pub fn register(router: &mut Router, member: &Rc<MemberHandle>) {
    for name in METHODS {
        let (member, need) = (member.clone(), methods::method(SERVICE, name).need);
        router.unary(SERVICE, name, move |mut call, (): ()| {
            let member = member.clone();
            async move {
                member.admit(&mut call, need).await?;
                Err::<Frame, _>(unimplemented("Maintenance", name))
            }
        });
    }
}
