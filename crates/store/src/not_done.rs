//! Why a change did not happen.

use metastore_engine::EngineError;

use crate::Refusal;

/// A change is refused, which is its answer on every member; or it failed here, and the member must stop.
#[derive(Debug)]
pub(crate) enum NotDone<F> {
    Refused(Refusal),
    Failed(F),
}

impl<F> From<Refusal> for NotDone<F> {
    fn from(refusal: Refusal) -> Self {
        Self::Refused(refusal)
    }
}

impl From<EngineError> for NotDone<EngineError> {
    fn from(error: EngineError) -> Self {
        Self::Failed(error)
    }
}

impl From<String> for NotDone<String> {
    fn from(error: String) -> Self {
        Self::Failed(error)
    }
}

/// Separates refusals from failures.
pub(crate) fn separate<T, F>(result: Result<T, NotDone<F>>) -> Result<Result<T, Refusal>, F> {
    match result {
        Ok(done) => Ok(Ok(done)),
        Err(NotDone::Refused(refusal)) => Ok(Err(refusal)),
        Err(NotDone::Failed(failure)) => Err(failure),
    }
}
