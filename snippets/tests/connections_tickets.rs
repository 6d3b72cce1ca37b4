//! `connections/tickets`: valid once, for seconds, on every instance, and bounded for each user.

use std::sync::Arc;
use std::time::{Duration, SystemTime};

use snippets::connections::tickets::{InMemory, MAX_LIFE, TicketError, Tickets, UsedTickets};

fn tickets(key: &[u8; 32], used: &Arc<InMemory>) -> Tickets {
    Tickets::new(key, Duration::from_secs(30), used.clone())
}

async fn redeem(tickets: &Tickets, ticket: &str) -> Result<(String, u32), TicketError> {
    tickets.redeem::<u32>(ticket).await
}

/// Two instances behind a balancer: one key, one place for used tickets.
#[tokio::test]
async fn a_ticket_of_one_instance_is_good_on_the_other_and_once() {
    let used = Arc::new(InMemory::new(10));
    let (a, b) = (tickets(&[1; 32], &used), tickets(&[1; 32], &used));
    let ticket = a.issue("ada", &7).unwrap();
    assert_eq!(redeem(&b, &ticket).await, Ok(("ada".into(), 7)));
    assert_eq!(redeem(&a, &ticket).await, Err(TicketError::Used));
    assert_eq!(redeem(&b, &ticket).await, Err(TicketError::Used));
    let stranger = tickets(&[2; 32], &used);
    assert_eq!(redeem(&stranger, &ticket).await, Err(TicketError::Invalid));
}

/// Every changed, cut or extended ticket is refused; none makes it panic.
#[tokio::test]
async fn a_changed_ticket_is_refused() {
    let tickets = Tickets::default();
    let ticket = tickets.issue("ada", &7).unwrap();
    for at in 0..ticket.len() {
        let mut changed = ticket.clone().into_bytes();
        changed[at] = if changed[at] == b'A' { b'B' } else { b'A' };
        let changed = String::from_utf8(changed).unwrap();
        assert_eq!(
            redeem(&tickets, &changed).await,
            Err(TicketError::Invalid),
            "{at}"
        );
        assert_eq!(
            redeem(&tickets, &ticket[..at]).await,
            Err(TicketError::Invalid),
            "{at}"
        );
    }
    for other in ["", ".", "..", "a.b", "ä.ö", &format!("{ticket}.")] {
        assert_eq!(
            redeem(&tickets, other).await,
            Err(TicketError::Invalid),
            "{other}"
        );
    }
    assert!(
        redeem(&tickets, &ticket).await.is_ok(),
        "the attempts have not used it up"
    );
}

#[tokio::test]
async fn a_ticket_expires() {
    let tickets = Tickets::default();
    let at = |ago| SystemTime::now() - Duration::from_secs(ago);
    let late = tickets.issue_at(at(31), "ada", &7).unwrap();
    assert_eq!(redeem(&tickets, &late).await, Err(TicketError::Expired));
    let in_time = tickets.issue_at(at(15), "ada", &7).unwrap();
    assert!(redeem(&tickets, &in_time).await.is_ok());
    // However long a life is asked for.
    let long = Tickets::new(&[1; 32], 2 * MAX_LIFE, Arc::new(InMemory::new(10)));
    let late = long
        .issue_at(at(MAX_LIFE.as_secs() + 1), "ada", &7)
        .unwrap();
    assert_eq!(redeem(&long, &late).await, Err(TicketError::Expired));
}

/// One ticket, many at once: exactly one is accepted.
#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn a_ticket_cannot_be_raced() {
    for _ in 0..50 {
        let tickets = Tickets::default();
        let ticket = tickets.issue("ada", &7).unwrap();
        let racers = (0..8).map(|_| {
            let (tickets, ticket) = (tickets.clone(), ticket.clone());
            tokio::spawn(async move { redeem(&tickets, &ticket).await.is_ok() })
        });
        let won = futures::future::join_all(racers).await;
        let won = won.into_iter().filter(|won| *won.as_ref().unwrap());
        assert_eq!(won.count(), 1);
    }
}

/// Issuing stores nothing; what redeeming stores is bounded for each user, and forgotten.
#[tokio::test(start_paused = true)]
async fn one_user_cannot_take_all_tickets() {
    let used = InMemory::new(3);
    for id in 0..3 {
        used.claim("mallory", id).await.unwrap();
    }
    for id in 3..10_000 {
        assert_eq!(used.claim("mallory", id).await, Err(TicketError::TooMany));
    }
    used.claim("ada", 10_000).await.unwrap();
    tokio::time::sleep(MAX_LIFE).await;
    used.claim("mallory", 10_001).await.unwrap();
    assert_eq!(used.claim("ada", 10_001).await, Err(TicketError::Used));
}

/// A reconnect of everyone.
#[tokio::test]
async fn four_thousand_users_get_and_use_their_tickets() {
    let work = async {
        let tickets = Tickets::default();
        let issued: Vec<_> = (0..4_000)
            .map(|n| tickets.issue(&format!("user {n}"), &n).unwrap())
            .collect();
        for ticket in &issued {
            redeem(&tickets, ticket).await.unwrap();
        }
    };
    crate::support::within("4,000 tickets", work).await;
}

/// Tickets are in URLs and logs: every byte of one can be written there as it is.
#[test]
fn a_ticket_fits_into_a_url() {
    let ticket = Tickets::default().issue("ada äöü", &7).unwrap();
    let allowed = |b: u8| b.is_ascii_alphanumeric() || b"-_.".contains(&b);
    assert!(
        ticket.bytes().all(allowed) && ticket.len() < 250,
        "{ticket}"
    );
}

/// Instances that share a Redis share its memory of used tickets. Without Redis no ticket is accepted, and no client stops.
#[cfg(feature = "redis")]
#[tokio::test]
#[ignore = "needs Redis: run ./check"]
async fn a_ticket_is_used_once_over_all_instances_with_redis() {
    use crate::support::broker::{Broker, Kind};
    use snippets::connections::redis_tickets::RedisTickets;
    let mut broker = Broker::start(Kind::Redis).await;
    let instance = async || {
        let client = redis::Client::open(broker.url()).unwrap();
        let connection = redis::aio::ConnectionManager::new(client).await.unwrap();
        let used = RedisTickets::new(connection, "tickets", 3, Duration::from_secs(2));
        Tickets::new(&[1; 32], Duration::from_secs(30), Arc::new(used))
    };
    let (a, b) = (instance().await, instance().await);
    let ticket = a.issue("ada", &7).unwrap();
    assert!(redeem(&b, &ticket).await.is_ok());
    assert_eq!(redeem(&a, &ticket).await, Err(TicketError::Used));
    for _ in 0..5 {
        let ticket = a.issue("mallory", &7).unwrap();
        let _ = redeem(&b, &ticket).await;
    }
    let more = a.issue("mallory", &7).unwrap();
    assert_eq!(redeem(&b, &more).await, Err(TicketError::TooMany));
    let ticket = a.issue("eve", &7).unwrap();
    broker.kill();
    assert_eq!(redeem(&a, &ticket).await, Err(TicketError::Unavailable));
}
