//! What is served now, as the control side sees it: loads, publishes, tells.

#![allow(
    clippy::disallowed_types,
    reason = "the control side alone locks, and never while a shard waits for it"
)]

use std::{
    path::Path,
    pin::Pin,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicU8, Ordering},
    },
};

use arc_swap::ArcSwap;

use crate::{
    apidef::ApiDefinition,
    error::LoadError,
    gateway::{
        loader::{Load, Loader},
        reload::{Gateway, Readiness, Refused, ReloadReport},
        snapshot::{Published, Snapshot},
    },
    metrics::Registry,
};

/// The definitions in force.
pub struct Live {
    // Control side only: held while files are read, on a thread that may wait.
    loader: Arc<Mutex<Loader>>,
    published: Arc<Published>,
    /// Snapshots that were replaced and may still be in use.
    retired: Mutex<Vec<Arc<Snapshot>>>,
    definitions: ArcSwap<Arc<[Arc<ApiDefinition>]>>,
    registry: Arc<Registry>,
    readiness: AtomicU8,
}

impl Live {
    /// Loads for the first time.
    ///
    /// # Errors
    /// A folder that exists and cannot be read.
    pub fn start(mut loader: Loader, registry: Arc<Registry>) -> Result<Self, String> {
        let mut load = loader.load().map_err(|errors| join(&errors))?;
        tell(&load);
        registry.add_compilations(load.compiled);
        registry.set_api_count(load.definitions.len());
        registry.set_refused_count(load.report.refused.len());
        loader.commit(&mut load);
        Ok(Self {
            loader: Arc::new(Mutex::new(loader)),
            published: Arc::new(Published::new(Arc::new(load.snapshot))),
            retired: Mutex::default(),
            definitions: ArcSwap::from_pointee(load.definitions.into()),
            registry,
            readiness: AtomicU8::new(Readiness::Starting as u8),
        })
    }

    #[must_use]
    pub fn published(&self) -> &Arc<Published> {
        &self.published
    }

    /// Reads the files and publishes what they say. Waits for the disk.
    pub fn reload(&self) -> ReloadReport {
        let mut loader = lock(&self.loader);
        let mut load = match loader.load() {
            Ok(load) => load,
            Err(errors) => {
                tracing::error!(
                    prefix = "main",
                    "reload failed, what was served goes on: {}",
                    join(&errors)
                );
                return ReloadReport::failed(errors.into_iter().map(Refused::from).collect());
            }
        };
        tell(&load);
        self.registry.add_compilations(load.compiled);
        self.registry.set_api_count(load.definitions.len());
        loader.commit(&mut load);
        let Load {
            snapshot,
            definitions,
            report,
            ..
        } = load;
        self.definitions.store(Arc::new(definitions.into()));
        let before = self.published.publish(Arc::new(snapshot));
        lock(&self.retired).push(before);
        tracing::info!(
            prefix = "main",
            added = report.added.len(),
            removed = report.removed.len(),
            changed = report.changed.len(),
            refused = report.refused.len(),
            "API reload complete"
        );
        report
    }

    /// Drops old snapshots that no shard and no request uses any more; whether some are left. To
    /// drop 10,000 APIs takes milliseconds, which a shard must not spend.
    pub fn let_go(&self) -> bool {
        let mut retired = lock(&self.retired);
        let unused: Vec<_> = retired
            .extract_if(.., |snapshot| Arc::strong_count(snapshot) == 1)
            .collect();
        let some_are_left = !retired.is_empty();
        drop(retired);
        drop(unused);
        some_are_left
    }

    /// As [`Loader::single`]. Waits while a reload reads.
    ///
    /// # Errors
    /// Why the definition is refused.
    pub fn single(
        &self,
        name: &Path,
        bytes: &[u8],
    ) -> Result<(Snapshot, Vec<String>), Vec<LoadError>> {
        lock(&self.loader).single(name, bytes)
    }

    pub fn set_readiness(&self, readiness: Readiness) {
        self.readiness.store(readiness as u8, Ordering::Relaxed);
    }
}

impl Gateway for Live {
    fn definitions(&self) -> Arc<[Arc<ApiDefinition>]> {
        Arc::clone(&self.definitions.load())
    }

    fn dry_run(&self) -> Pin<Box<dyn Future<Output = ReloadReport> + Send + '_>> {
        let loader = Arc::clone(&self.loader);
        // On a thread that may wait: the control thread answers for the store meanwhile.
        let done = tokio::task::spawn_blocking(move || match lock(&loader).load() {
            Ok(load) => load.report,
            Err(errors) => ReloadReport::failed(errors.into_iter().map(Refused::from).collect()),
        });
        Box::pin(async {
            done.await.unwrap_or_else(|error| {
                tracing::error!(prefix = "main", %error, "a dry run broke off");
                ReloadReport::failed(Vec::new())
            })
        })
    }

    fn readiness(&self) -> Readiness {
        match self.readiness.load(Ordering::Relaxed) {
            value if value == Readiness::Ready as u8 => Readiness::Ready,
            value if value == Readiness::Starting as u8 => Readiness::Starting,
            _ => Readiness::Draining,
        }
    }
}

fn lock<T>(loader: &Mutex<T>) -> MutexGuard<'_, T> {
    // A load that panicked has changed nothing yet.
    loader.lock().unwrap_or_else(PoisonError::into_inner)
}

fn tell(load: &Load) {
    for refused in &load.report.refused {
        tracing::error!(prefix = "main", "refused: {refused}");
    }
    for line in &load.warnings {
        tracing::warn!(prefix = "main", "{line}");
    }
}

fn join(errors: &[LoadError]) -> String {
    errors
        .iter()
        .map(ToString::to_string)
        .collect::<Vec<_>>()
        .join("; ")
}
