//! The desk that answers the shards' questions about what is stored.

use std::{sync::Arc, time::Duration};

use tokio::sync::Semaphore;

use crate::{
    mailbox::{Desk, Question},
    storage::{Owner, StoreError},
};

/// What one question brought: the value of the first of its keys that exists.
pub type Found = Result<Option<Vec<u8>>, StoreError>;

/// Questions that become one question to the store.
const BATCH_MAX: usize = 64;

/// For the store's answer; a request waits for it.
const DEADLINE: Duration = Duration::from_millis(100);

/// Questions to the store under way. While all are, the mailbox fills and shards are told so.
const BATCHES_MAX: usize = 32;

/// Answers until every shard is gone. `keys` says which keys a question is about, whole and in
/// order of preference; `answer` puts what was found into the asker's words. Questions that wait
/// are asked together; a slow answer holds up nobody else's.
pub async fn run<Q, A>(
    mut desk: Desk<Q, A>,
    owner: Arc<Owner>,
    keys: fn(Q) -> Vec<String>,
    answer: fn(Found) -> A,
) where
    Q: Send + 'static,
    A: Send + 'static,
{
    let slots = Arc::new(Semaphore::new(BATCHES_MAX));
    let mut batch = Vec::new();
    loop {
        // Closing the semaphore is not in the program.
        let Ok(slot) = Arc::clone(&slots).acquire_owned().await else {
            return;
        };
        if desk.recv_batch(&mut batch, BATCH_MAX).await == 0 {
            return;
        }
        let questions = std::mem::take(&mut batch);
        let owner = Arc::clone(&owner);
        // A panic in there drops the replies, which tells the shards.
        tokio::spawn(async move {
            ask(questions, &owner, keys, answer).await;
            drop(slot);
        });
    }
}

async fn ask<Q, A>(
    questions: Vec<Question<Q, A>>,
    owner: &Owner,
    keys: fn(Q) -> Vec<String>,
    answer: fn(Found) -> A,
) {
    let mut names = Vec::with_capacity(questions.len());
    let mut replies = Vec::with_capacity(questions.len());
    for question in questions {
        let mut asked = keys(question.payload);
        replies.push((asked.len(), question.reply));
        names.append(&mut asked);
    }
    let found = match owner.store_within(DEADLINE) {
        Err(error) => Err(error),
        Ok(store) => store.get_many(names).await,
    };
    match found {
        Ok(values) => {
            let mut values = values.into_iter();
            for (count, reply) in replies {
                let first = values.by_ref().take(count).fold(None, Option::or);
                reply.send(answer(Ok(first)));
            }
        }
        Err(error) => {
            for (_, reply) in replies {
                reply.send(answer(Err(error.clone())));
            }
        }
    }
}
