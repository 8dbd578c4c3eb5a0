//! The desk that answers the shards' questions about sessions.

use std::sync::Arc;

use tokio::sync::Semaphore;

use crate::{
    mailbox::{Desk, Question},
    storage::{Owner, StoreError, keys},
};

/// The key of a session, as the request carried it.
pub type Ask = String;

/// The session as stored (Tyk's JSON); `Ok(None)` when there is none.
pub type Found = Result<Option<Vec<u8>>, StoreError>;

/// Questions that become one question to the store.
const BATCH_MAX: usize = 64;

/// Questions to the store under way. While all are, the mailbox fills and shards are told so.
const BATCHES_MAX: usize = 32;

/// Answers until every shard is gone. Questions that wait are asked together; a slow answer holds
/// up nobody else's.
pub async fn run(mut desk: Desk<Ask, Found>, owner: Arc<Owner>) {
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
            answer(questions, &owner).await;
            drop(slot);
        });
    }
}

async fn answer(questions: Vec<Question<Ask, Found>>, owner: &Owner) {
    let found = match owner.store() {
        Err(error) => Err(error),
        Ok(store) => {
            let names = questions
                .iter()
                .map(|question| keys::session(&question.payload))
                .collect();
            store.get_many(names).await
        }
    };
    match found {
        Ok(sessions) => {
            for (question, session) in questions.into_iter().zip(sessions) {
                question.reply.send(Ok(session));
            }
        }
        Err(error) => {
            for question in questions {
                question.reply.send(Err(error.clone()));
            }
        }
    }
}
