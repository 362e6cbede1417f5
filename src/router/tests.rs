//! What a change of the routes costs, counted.

use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};
use std::task::Context as TaskContext;

use actix::{Actor, Addr, Context, Handler};
use tokio::sync::mpsc::{UnboundedReceiver, unbounded_channel};

use super::*;
use crate::testing::within;

const MANY: MsgId = 10_000;

/// How often routes were made and retired.
#[derive(Debug, Default)]
struct Counts {
    installed: AtomicUsize,
    retired: AtomicUsize,
}

impl Counts {
    fn take(&self) -> (usize, usize) {
        (self.installed.swap(0, Relaxed), self.retired.swap(0, Relaxed))
    }

    fn route(self: &Arc<Self>) -> Route {
        Route(Arc::new(Counted(Arc::clone(self))))
    }
}

struct Counted(Arc<Counts>);

impl RouteSource for Counted {
    fn kind(&self) -> &'static str {
        "counted"
    }

    fn install(&self, _: MsgId, _: &Surroundings) -> Rc<dyn LocalRoute> {
        self.0.installed.fetch_add(1, Relaxed);
        Rc::new(Self(Arc::clone(&self.0)))
    }
}

impl LocalRoute for Counted {
    fn deliver(&self, _: Inbound, _: &dyn Replies, _: &mut TaskContext<'_>) -> Delivered {
        Delivered::Done
    }

    fn retire(&self) {
        self.0.retired.fetch_add(1, Relaxed);
    }
}

/// Follows a router as a worker does, and says how many changes each publication has.
struct Follower {
    local: LocalTable,
    tell: tokio::sync::mpsc::UnboundedSender<usize>,
}

impl Actor for Follower {
    type Context = Context<Self>;
}

impl Handler<Publish> for Follower {
    type Result = ();

    fn handle(&mut self, news: Publish, _: &mut Context<Self>) {
        self.tell.send(news.changes.len()).unwrap();
        self.local.follow(news, &Surroundings::default());
    }
}

impl Handler<Redeliver> for Follower {
    type Result = ();

    fn handle(&mut self, _: Redeliver, _: &mut Context<Self>) {}
}

/// A router with one worker, and the numbers of changes in what it publishes.
fn router() -> (Addr<Router>, UnboundedReceiver<usize>) {
    let (tell, told) = unbounded_channel();
    let worker = Follower { local: LocalTable::default(), tell }.start();
    let workers =
        vec![RouterWorker { publish: worker.clone().recipient(), redeliver: worker.recipient() }];
    (Router::with_workers(workers, Surroundings::default()).start(), told)
}

fn publications(told: &mut UnboundedReceiver<usize>) -> Vec<usize> {
    std::iter::from_fn(|| told.try_recv().ok()).collect()
}

async fn register(router: &Addr<Router>, id: MsgId, route: Route) -> Result<(), RouteError> {
    within(router.send(Register { id, route })).await.unwrap()
}

async fn unregister(router: &Addr<Router>, id: MsgId) -> Result<(), RouteError> {
    within(router.send(Unregister(id))).await.unwrap()
}

#[actix::test]
async fn many_routes_are_published_at_once_and_a_change_among_them_costs_one_route() {
    let (router, mut told) = router();
    let counts = Arc::new(Counts::default());
    let routes = (0..MANY).map(|id| (id, counts.route())).collect();
    assert_eq!(within(router.send(RegisterAll(routes))).await.unwrap(), Ok(()));
    assert_eq!(publications(&mut told), [MANY as usize]);
    assert_eq!(counts.take(), (MANY as usize, 0));

    assert_eq!(register(&router, MANY, counts.route()).await, Ok(()));
    assert_eq!((publications(&mut told), counts.take()), (vec![1], (1, 0)));
    assert_eq!(unregister(&router, 5_000).await, Ok(()));
    assert_eq!((publications(&mut told), counts.take()), (vec![1], (0, 1)));
}

#[actix::test]
async fn a_source_with_many_ids_is_one_route_that_is_retired_with_its_last_id() {
    let (router, _told) = router();
    let counts = Arc::new(Counts::default());
    let route = counts.route();
    let routes = (0..MANY).map(|id| (id, route.clone())).collect();
    assert_eq!(within(router.send(RegisterAll(routes))).await.unwrap(), Ok(()));
    assert_eq!(register(&router, MANY, route).await, Ok(()));
    for id in 0..MANY {
        assert_eq!(unregister(&router, id).await, Ok(()));
    }
    assert_eq!(counts.take(), (1, 0), "it has an id left");
    assert_eq!(unregister(&router, MANY).await, Ok(()));
    assert_eq!(counts.take(), (0, 1));
}

#[actix::test]
async fn a_route_that_comes_back_is_installed_again() {
    let (router, _told) = router();
    let counts = Arc::new(Counts::default());
    let route = counts.route();
    for _ in 0..3 {
        assert_eq!(register(&router, 1, route.clone()).await, Ok(()));
        assert_eq!(unregister(&router, 1).await, Ok(()));
        assert_eq!(counts.take(), (1, 1));
    }
}

#[actix::test]
async fn routes_that_are_registered_together_are_refused_together() {
    let (router, mut told) = router();
    let counts = Arc::new(Counts::default());
    let ids = (0..MANY).chain([7_000]);
    let routes = ids.map(|id| (id, counts.route())).collect();
    let refused = within(router.send(RegisterAll(routes))).await.unwrap();
    assert_eq!(refused, Err(RouteError::Duplicate(7_000)));
    assert_eq!((publications(&mut told), counts.take()), (vec![], (0, 0)));
    assert!(within(router.send(Lookup(1))).await.unwrap().is_none());
}

#[actix::test]
async fn all_routes_of_a_table_that_is_cleared_are_retired_once() {
    let (local, counts) = (LocalTable::default(), Arc::new(Counts::default()));
    let (one, many) = (counts.route(), counts.route());
    let mut changes = vec![Change::Add(MANY, one.0)];
    changes.extend((0..MANY).map(|id| Change::Add(id, Arc::clone(&many.0))));
    local.update(Arc::new(changes), &Surroundings::default());
    local.clear();
    assert_eq!(counts.take(), (2, 2));
}

#[actix::test]
async fn a_route_that_panics_when_it_is_dropped_ends_nobody() {
    struct PanicsLast;
    impl Drop for PanicsLast {
        fn drop(&mut self) {
            panic!("on purpose");
        }
    }
    let (router, _told) = router();
    for id in 0..3 {
        let captured = PanicsLast;
        let route = Route::function(async move |_: Inbound| {
            let _ = &captured;
        });
        assert_eq!(register(&router, id, route).await, Ok(()));
    }
    for id in 0..3 {
        assert_eq!(unregister(&router, id).await, Ok(()));
    }
    let counts = Arc::new(Counts::default());
    assert_eq!(register(&router, 1, counts.route()).await, Ok(()));
    assert_eq!(counts.take(), (1, 0), "the worker is there");
}
