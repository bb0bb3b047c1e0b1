#![allow(clippy::unwrap_used)]

use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};

use super::suspension::TIMEOUTS_IN_A_ROW;
use super::*;

const RECEIVED_AT_US: i64 = 1_700_000_000_123_456;

fn pool() -> CodecPool {
    CodecPool::new(1, Limits::default(), Interpreter::Engine)
}

fn script(source: &str) -> Codec {
    static REVISION: AtomicU32 = AtomicU32::new(1);
    let revision = REVISION.fetch_add(1, Ordering::Relaxed);
    Codec::Script { id: "meter".to_owned(), revision, source: source.into() }
}

fn returning(expression: &str) -> Codec {
    script(&format!("function decodeUplink(input) {{ return {expression}; }}"))
}

async fn decode(source: &str) -> Decoded {
    pool().decode_uplink(&script(source), &[1, 2, 3], 7, RECEIVED_AT_US).await
}

async fn error_of(source: &str) -> String {
    let decoded = decode(source).await;
    assert_eq!(decoded.object_json, "", "{source}");
    assert_eq!(decoded.errors.len(), 1, "{source}: {decoded:?}");
    decoded.errors.into_iter().next().unwrap()
}

async fn error_of_result(expression: &str) -> String {
    error_of(&format!("function decodeUplink(input) {{ return {expression}; }}")).await
}

async fn encode(source: &str) -> Encoded {
    pool().encode_downlink(&script(source), r#"{"open": true, "level": 3}"#).await
}

/// CODEC-001
#[tokio::test]
async fn decode_uplink_sees_bytes_port_and_time_and_its_result_is_json() {
    let decoded = decode(
        "function decodeUplink(input) {
           return {
             data: { sum: input.bytes.reduce((a, b) => a + b, 0), port: input.fPort, at: input.recvTime,
                     raw: input.bytes, list: [1, undefined], skipped: undefined, f: function () {}, none: null },
             warnings: ['battery low']
           };
         }",
    )
    .await;
    assert_eq!(
        decoded.object_json,
        r#"{"sum":6,"port":7,"at":"2023-11-14T22:13:20.123Z","raw":[1,2,3],"list":[1,null],"none":null}"#
    );
    assert_eq!(decoded.warnings, ["battery low"]);
    assert_eq!(decoded.errors, Vec::<String>::new());
    assert!(!decoded.timed_out && !decoded.suspension_started);
}

/// CODEC-001
#[tokio::test]
async fn the_codecs_own_errors_are_told_and_no_object_is_given() {
    let decoded = decode(
        "function decodeUplink(input) {
           return { data: { half: 1 }, errors: ['port 7 is not mine', 42], warnings: 'odd' };
         }",
    )
    .await;
    assert_eq!(decoded.object_json, "");
    assert_eq!(decoded.errors, ["port 7 is not mine", "42"]);
    assert_eq!(decoded.warnings, ["odd"]);
}

/// CODEC-001, CODEC-005
#[tokio::test]
async fn a_result_that_is_no_object_is_named_for_what_it_is() {
    for (expression, named) in [
        ("NaN", "NaN"),
        ("null", "null"),
        ("undefined", "nothing"),
        ("7", "a number"),
        ("'text'", "a string"),
        ("[1]", "an array"),
        ("1 / 0", "infinite"),
        ("true", "a boolean"),
        ("decodeUplink", "a function"),
        ("10n", "a BigInt"),
        ("Symbol()", "a symbol"),
    ] {
        assert_eq!(
            error_of_result(expression).await,
            format!("decodeUplink returned {named}, expected an object like {{data: {{...}}}}")
        );
        if expression != "undefined" && expression != "null" {
            assert_eq!(
                error_of_result(&format!("({{data: {expression}}})")).await,
                format!("decodeUplink returned data that is {named}, expected an object")
            );
        }
    }
    assert_eq!(error_of_result("({})").await, "decodeUplink returned no data, expected {data: {...}}");
    assert_eq!(
        error_of("async function decodeUplink() { await 1; return {data: {}}; }").await,
        "decodeUplink returned a promise: codec functions cannot be async"
    );
}

/// CODEC-005
#[tokio::test]
async fn an_object_whose_json_form_is_none_is_refused() {
    for (data, form) in [
        ("{toJSON: function () { return 7; }}", "7"),
        ("{toJSON: function () { return [1]; }}", "[1]"),
        ("new Date(0)", "\"1970-01-01T00:00:00.000Z\""),
        ("new String('x')", "\"x\""),
    ] {
        assert_eq!(
            error_of_result(&format!("{{data: {data}}}")).await,
            format!("decodeUplink returned data whose JSON form is {form}, expected an object")
        );
    }
    let kept = "function decodeUplink() { return {data: {toJSON: function () { return {a: 1}; }}}; }";
    assert_eq!(decode(kept).await.object_json, "{\"a\":1}");
}

#[tokio::test]
async fn a_number_json_cannot_hold_is_named_with_its_path() {
    assert_eq!(
        error_of_result("({data: {soil: [{moisture: 1}, {moisture: 0 / 0}]}})").await,
        "decodeUplink returned a value JSON cannot hold: data.soil[1].moisture is NaN"
    );
    assert_eq!(
        error_of_result("({data: {level: -1 / 0, ok: null}})").await,
        "decodeUplink returned a value JSON cannot hold: data.level is -Infinity"
    );
    assert_eq!(
        error_of_result("({data: {at: new Date(NaN)}})").await,
        "decodeUplink returned a value JSON cannot hold: data.at is an invalid date"
    );
    assert!(error_of_result("({data: {n: 10n}})").await.contains("BigInt"));
    assert!(
        error_of("var a = {}; a.a = a; function decodeUplink() { return {data: a}; }")
            .await
            .contains("circular")
    );
}

/// CODEC-004, CODEC-005
#[tokio::test]
async fn a_result_too_long_or_too_deep_is_refused_and_half_characters_are_replaced() {
    assert_eq!(
        error_of_result("({data: {text: 'x'.repeat(70000)}})").await,
        "decodeUplink returned 70011 bytes of JSON, at most 65536 are taken"
    );
    let deep = "var d = {}; for (var i = 0; i < 200; i++) d = {d: d};
                function decodeUplink() { return {data: d}; }";
    assert_eq!(error_of(deep).await, "decodeUplink returned data nested 201 deep, at most 64 levels are taken");

    let pool = pool();
    let halves = r"({data: {bad: 'a\ud800b', good: '\ud83d\ude00', slashes: '\\ud800', '\udc00': 1}})";
    let decoded = pool.decode_uplink(&returning(halves), &[], 1, 0).await;
    let value: serde_json::Value = serde_json::from_str(&decoded.object_json).unwrap();
    assert_eq!(value["bad"], "a\u{fffd}b");
    assert_eq!(value["good"], "😀");
    assert_eq!(value["slashes"], "\\ud800");
    assert_eq!(value["\u{fffd}"], 1);
}

/// CODEC-005
#[tokio::test]
async fn what_a_codec_throws_is_told_with_its_line() {
    assert_eq!(
        error_of("function decodeUplink(input) {\n  var a;\n  return a.b;\n}").await,
        "decodeUplink threw TypeError: cannot read property 'b' of undefined (line 3)"
    );
    assert_eq!(error_of("function decodeUplink() { throw 'no\\nport' }").await, "decodeUplink threw no port");
    assert_eq!(
        error_of("function decodeUplink() { throw {code: 4} }").await,
        "decodeUplink threw {\"code\":4}"
    );
    assert!(error_of("function decodeUplink() { throw null }").await.starts_with("decodeUplink threw null"));
    assert!(
        error_of("function decodeUplink() { throw new Error('x'.repeat(9999)) }").await.chars().count() < 350
    );
    assert_eq!(
        error_of("function decodeUplink() { throw { toJSON() { throw 1 } } }").await,
        "decodeUplink threw an object"
    );
}

/// CODEC-004
#[tokio::test]
async fn what_does_not_end_is_stopped_and_the_next_call_runs() {
    let pool = pool();
    for endless in [
        "function decodeUplink() { while (true) {} }",
        "function decodeUplink() { for (;;) { try { while (true) {} } catch (e) {} finally { continue; } } }",
        "function decodeUplink() { return /^(a+)+$/.test('a'.repeat(40) + 'b') }",
        "function decodeUplink() { return { get data() { while (true) {} } } }",
        "function decodeUplink() { return {data: { get x() { while (true) {} } }} }",
        "function decodeUplink() { return {data: new Proxy({}, { ownKeys() { while (true) {} } })} }",
        "function decodeUplink() { return {errors: [{ toJSON() { while (true) {} } }]} }",
        "function decodeUplink() { throw { toJSON() { while (true) {} } } }",
        "function decodeUplink() { [1, 2].sort(function () { while (true) {} }) }",
    ] {
        let decoded = pool.decode_uplink(&script(endless), &[1], 1, 0).await;
        assert_eq!(decoded.errors, ["decodeUplink ran longer than 50 ms and was stopped"], "{endless}");
        assert!(decoded.timed_out, "{endless}");
        assert_eq!(decoded.object_json, "");

        let good = pool.decode_uplink(&returning("{data: {ok: 1}}"), &[1], 1, 0).await;
        assert_eq!(good.object_json, r#"{"ok":1}"#, "after {endless}");
    }
}

/// CODEC-004
#[tokio::test]
async fn a_top_level_that_does_not_end_is_stopped_too() {
    let error = error_of("while (true) {}").await;
    assert_eq!(error, "the codec's top level ran longer than 50 ms and was stopped");
    let jobs = "function again() { Promise.resolve().then(again); } again(); function decodeUplink() {}";
    assert_eq!(error_of(jobs).await, "the codec's top level ran longer than 50 ms and was stopped");
    let jobs = "function again() { Promise.resolve().then(again); }
                function decodeUplink() { again(); return {data: {ok: 1}}; }";
    assert_eq!(error_of(jobs).await, "decodeUplink ran longer than 50 ms and was stopped");
}

/// CODEC-004
#[tokio::test]
async fn memory_and_stack_have_limits() {
    for greedy in [
        "function decodeUplink() { var a = []; for (;;) a.push(new Uint8Array(100000)); }",
        "function decodeUplink() { return {data: {b: new Uint8Array(1e9)}}; }",
        "function decodeUplink() { return {data: {s: 'x'.repeat(5e8)}}; }",
        "function decodeUplink() { var a = []; for (;;) a.push('x'.repeat(100000) + a.length); }",
    ] {
        let error = error_of(greedy).await;
        assert!(error.contains("16 MiB of memory"), "{greedy}: {error}");
    }
    assert_eq!(
        error_of("function decodeUplink() { return decodeUplink() + 1; }").await,
        "decodeUplink recursed too deeply: the stack limit is 256 KiB"
    );
    let error = error_of(
        "var d = {}; for (var i = 0; i < 30000; i++) d = {d: d};
                          function decodeUplink() { return {data: d}; }",
    )
    .await;
    assert!(error.contains("too deeply") || error.contains("nested"), "{error}");
}

/// CODEC-004
#[tokio::test]
async fn a_call_stuck_inside_one_builtin_is_given_up_and_the_rest_of_the_batch_is_answered() {
    let pool = pool();
    let stuck = Arc::new(returning("Array(4294967295).join('')"));
    let good = Arc::new(returning("{data: {n: input.bytes[0]}}"));
    let calls = [(&good, 1), (&stuck, 2), (&good, 3), (&stuck, 4)]
        .map(|(codec, byte)| DecodeJob {
            codec: Arc::clone(codec),
            bytes: vec![byte],
            f_port: 1,
            recv_time_us: 0,
        })
        .to_vec();

    // Both codecs bear one name here; what is given up is this revision of it.
    let answers = pool.decode_batch(calls).await;

    assert_eq!(answers[0].object_json, r#"{"n":1}"#);
    assert!(answers[1].timed_out && answers[1].suspension_started, "{:?}", answers[1]);
    assert_eq!(answers[1].errors, ["the codec did not come back within 1 s and was left alone"]);
    assert_eq!(answers[2].object_json, r#"{"n":3}"#);
    assert_eq!(
        answers[3].errors,
        ["codec meter did not come back from a call and is not run until it is changed"]
    );
}

/// CODEC-004
#[tokio::test]
async fn twenty_timeouts_in_a_row_suspend_a_codec_until_it_is_changed() {
    let pool = pool();
    let bad = script("function decodeUplink(input) { if (input.bytes[0]) while (true) {} return {data: {}}; }");
    for _ in 0..2 {
        for _ in 1..TIMEOUTS_IN_A_ROW {
            let decoded = pool.decode_uplink(&bad, &[1], 1, 0).await;
            assert!(decoded.timed_out && !decoded.suspension_started);
        }
        assert_eq!(pool.decode_uplink(&bad, &[0], 1, 0).await.object_json, "{}");
    }
    for count in 1..=TIMEOUTS_IN_A_ROW {
        let decoded = pool.decode_uplink(&bad, &[1], 1, 0).await;
        assert_eq!(decoded.suspension_started, count == TIMEOUTS_IN_A_ROW);
    }

    let refused = pool.decode_uplink(&bad, &[0], 1, 0).await;
    assert!(refused.errors[0].starts_with("codec meter is suspended for "), "{refused:?}");
    assert!(!refused.timed_out && !refused.suspension_started);

    let changed = pool.decode_uplink(&returning("{data: {ok: 1}}"), &[1], 1, 0).await;
    assert_eq!(changed.object_json, r#"{"ok":1}"#);
}

/// CODEC-003, CODEC-004
#[tokio::test]
async fn a_codec_finds_no_way_out_of_its_realm() {
    let names = "fetch setTimeout setInterval require process os std performance WeakRef queueMicrotask Atomics \
                 SharedArrayBuffer print scriptArgs XMLHttpRequest WebAssembly Worker navigator gc loadScript";
    for name in names.split(' ') {
        let pool = pool();
        let decoded =
            pool.decode_uplink(&returning(&format!("{{data: {{t: typeof {name}}}}}")), &[], 1, 0).await;
        assert_eq!(decoded.object_json, r#"{"t":"undefined"}"#, "{name}");
    }
    let error = error_of("function decodeUplink() { return import('std').then(function () {}) }").await;
    assert!(error.starts_with("decodeUplink"), "{error}");
    let decoded =
        decode("function decodeUplink() { console.log('a', {}); console.error(1); return {data: {}} }").await;
    assert_eq!(decoded.object_json, "{}");
}

/// CODEC-004
#[tokio::test]
async fn nothing_a_call_does_is_seen_by_the_next_one() {
    let pool = pool();
    let codec = script(
        "var count = 0;
         var kept = {};
         function decodeUplink(input) {
           count++;
           leaked = (typeof leaked === 'undefined') ? 1 : leaked + 1;
           kept.n = (kept.n || 0) + 1;
           var own = arguments.callee; own.n = (own.n || 0) + 1;
           var state = [count, leaked, kept.n, own.n, Array.prototype.n, Math.n, JSON.n, [].concat.n].map(String);
           try { Array.prototype.n = 1; Math.n = 1; JSON.n = 1; [].concat.n = 1; } catch (e) {}
           try { JSON.stringify = function () { return 'poison' }; } catch (e) {}
           try { Array.prototype.map = null; Object.prototype.toJSON = function () { return 9 }; } catch (e) {}
           try { Object.getPrototypeOf(function* () {}()).next = null; } catch (e) {}
           try { globalThis.parseInt = null; globalThis.Date = null; } catch (e) {}
           Object.defineProperty(globalThis, 'hidden', { value: 1, configurable: true });
           return {data: {state: state.join(' '), int: parseInt('12'), hidden: typeof hidden}};
         }",
    );
    for call in 0..3 {
        let decoded = pool.decode_uplink(&codec, &[], 1, 0).await;
        assert_eq!(
            decoded.object_json,
            r#"{"state":"1 1 1 1 undefined undefined undefined undefined","int":12,"hidden":"number"}"#,
            "call {call}: {:?}",
            decoded.errors
        );
    }
    for poison in [
        "Object.defineProperty(globalThis, 'stays', { value: 1, configurable: false })",
        "Object.preventExtensions(globalThis)",
        "Object.setPrototypeOf(globalThis, { inherited: 1 })",
    ] {
        let codec = script(&format!(
            "function decodeUplink(input) {{
               var seen = typeof stays + typeof inherited + Object.isExtensible(globalThis);
               try {{ {poison} }} catch (e) {{}}
               return {{data: {{seen: seen}}}};
             }}"
        ));
        for _ in 0..2 {
            let decoded = pool.decode_uplink(&codec, &[], 1, 0).await;
            assert_eq!(decoded.object_json, r#"{"seen":"undefinedundefinedtrue"}"#, "{poison}");
        }
    }
}

/// CODEC-003
#[tokio::test]
async fn habits_of_old_codecs_work() {
    let pool = pool();
    for source in [
        "function Decoder(bytes, port) { var decoded = {}; decoded.v = bytes[1] + port; return decoded; }",
        "function Decode(fPort, bytes) { return { v: bytes[1] + fPort }; }",
        "function Decode(fPort, bytes, variables) { for (i = 0; i < 2; i++) last = bytes[i]; return {v: last + fPort}; }",
        "decodeUplink = function (input) { return {data: {v: input.bytes[1] + input.fPort}}; }",
        "const decodeUplink = ({bytes, fPort}) => ({data: {v: bytes[1] + fPort}});",
        "'use strict';\nfunction decodeUplink(input) { return {data: {v: input.bytes[1] + input.fPort}}; } // end",
        "if (!Array.prototype.second) { Array.prototype.second = function () { return this[1]; }; }
         function decodeUplink(input) { return {data: {v: input.bytes.second() + input.fPort}}; }",
        "function Reading(v) { this.v = v; } Reading.prototype.toString = function () { return 'r'; };
         function decodeUplink(input) { return {data: new Reading(input.bytes[1] + input.fPort)}; }",
        "function decodeUplink(input) { var e = new Error('x'); e.message = 'y'; e.name = 'Z';
           return {data: {v: input.bytes[1] + input.fPort + (input.variables.offset || 0)}}; }",
        "if (typeof module !== 'undefined') { module.exports = { decodeUplink: decodeUplink }; }
         function decodeUplink(input) { return {data: {v: input.bytes[1] + input.fPort}}; }",
    ] {
        for _ in 0..3 {
            let decoded = pool.decode_uplink(&script(source), &[1, 2], 7, 0).await;
            assert_eq!(decoded.object_json, r#"{"v":9}"#, "{source}: {:?}", decoded.errors);
        }
    }
}

/// CODEC-003: what a frame is decoded to does not depend on when that happens.
#[tokio::test]
async fn the_clock_of_a_codec_stands_at_the_time_its_frame_was_received() {
    let pool = pool();
    let codec = script(
        "var started = Date.now();
         class Moment extends Date { ms() { return +this; } }
         function decodeUplink(input) {
           var again = new Date().constructor;
           var all = [started, Date.now(), +new Date(), +new Date(Date()), again.now(), +new again(),
                      Reflect.construct(again, []).getTime(), new Moment().ms(), +input.recvTime];
           return {data: {all: all.map(function (t) { return t - t % 1000; }),
                          set: new Date(5).getTime(), utc: Date.UTC(1970, 0, 1), day: new Date(2020, 1, 2).getDate(),
                          is: new Date() instanceof Date, name: Date.name}};
         }",
    );
    for seconds in [0, 1, 1_700_000_000, 4_000_000_000_i64] {
        let decoded = pool.decode_uplink(&codec, &[], 1, seconds * 1_000_000).await;
        let value: serde_json::Value = serde_json::from_str(&decoded.object_json).unwrap();
        assert_eq!(value["all"], serde_json::json!(vec![seconds * 1_000; 9]), "{:?}", decoded.errors);
        assert_eq!((&value["set"], &value["utc"], &value["day"]), (&5.into(), &0.into(), &2.into()));
        assert_eq!((&value["is"], &value["name"]), (&true.into(), &"Date".into()));
    }
    // What is sent is made when it is asked for.
    let encoded = encode("function encodeDownlink() { return {bytes: [Date.now() > 1.7e12 ? 1 : 0]}; }").await;
    assert_eq!(encoded.bytes, [1]);
}

/// CODEC-002
#[tokio::test]
async fn encode_downlink_gives_bytes_and_port() {
    let encoded = encode(
        "function encodeDownlink(input) {
           return { bytes: [input.data.open ? 1 : 0, input.data.level, 255], fPort: 10, warnings: ['slow'] };
         }",
    )
    .await;
    assert_eq!((encoded.bytes.as_slice(), encoded.f_port), ([1, 3, 255].as_slice(), Some(10)));
    assert_eq!(encoded.warnings, ["slow"]);
    let typed = encode("function encodeDownlink() { return {bytes: new Uint8Array([1, 2])} }").await;
    assert_eq!((typed.bytes.as_slice(), typed.f_port, typed.errors.len()), ([1, 2].as_slice(), None, 0));
    let own = encode("function encodeDownlink() { return {bytes: [1], errors: ['valve is locked']} }").await;
    assert_eq!((own.bytes.len(), own.errors.as_slice()), (0, ["valve is locked".to_owned()].as_slice()));
}

/// CODEC-002
#[tokio::test]
async fn bytes_and_ports_that_cannot_be_sent_are_refused_by_their_place() {
    for (result, error) in [
        ("{bytes: [1, 2.5]}", "returned bytes[1] = 2.5, expected an integer from 0 to 255"),
        ("{bytes: [-1]}", "returned bytes[0] = -1, expected an integer from 0 to 255"),
        ("{bytes: [0, 0, 256]}", "returned bytes[2] = 256, expected an integer from 0 to 255"),
        ("{bytes: [NaN]}", "returned bytes[0] = NaN, expected an integer from 0 to 255"),
        ("{bytes: ['1']}", "returned bytes[0] = a string, expected an integer from 0 to 255"),
        ("{bytes: Array(3)}", "returned bytes[0] = nothing, expected an integer from 0 to 255"),
        ("{bytes: Array(243).fill(0)}", "returned 243 bytes, a frame carries at most 242"),
        ("{bytes: Array(4294967295)}", "returned 4294967295 bytes, a frame carries at most 242"),
        ("{bytes: '0102'}", "returned bytes that are a string, expected an array of integers"),
        ("{bytes: {}}", "returned bytes that are an object, expected an array of integers"),
        ("{}", "returned no bytes, expected an array of integers"),
        ("{bytes: [1], fPort: 0}", "returned fPort 0, expected an integer from 1 to 223"),
        ("{bytes: [1], fPort: 224}", "returned fPort 224, expected an integer from 1 to 223"),
        ("{bytes: [1], fPort: 1.5}", "returned fPort 1.5, expected an integer from 1 to 223"),
        ("{bytes: [1], fPort: '2'}", "returned fPort a string, expected an integer from 1 to 223"),
        ("7", "returned a number, expected an object like {bytes: [...], fPort: 1}"),
    ] {
        let encoded = encode(&format!("function encodeDownlink() {{ return {result}; }}")).await;
        assert_eq!(encoded.errors, [format!("encodeDownlink {error}")], "{result}");
        assert_eq!((encoded.bytes.len(), encoded.f_port.is_some() && !encoded.errors.is_empty()), (0, false));
    }
    let encoded = pool().encode_downlink(&script("function encodeDownlink() {}"), "{open").await;
    assert!(encoded.errors[0].starts_with("the object to encode is not JSON"), "{encoded:?}");
}

/// CODEC-002
#[tokio::test]
async fn decode_downlink_is_the_way_back() {
    let codec = script("function decodeDownlink(input) { return {data: {open: input.bytes[0] === 1}}; }");
    let pool = pool();
    assert_eq!(pool.decode_downlink(&codec, &[1], 10, 0).await.object_json, r#"{"open":true}"#);
    assert_eq!(
        pool.decode_uplink(&codec, &[1], 10, 0).await.errors,
        ["the codec has no function decodeUplink"]
    );
    assert_eq!(pool.encode_downlink(&codec, "{}").await.errors, ["the codec has no function encodeDownlink"]);
}

#[tokio::test]
async fn a_batch_is_answered_in_order_whatever_the_codecs() {
    let pool = CodecPool::new(2, Limits::default(), Interpreter::Engine);
    let scripts = [
        Arc::new(returning("{data: {n: input.bytes[0]}}")),
        Arc::new(Codec::None),
        Arc::new(Codec::CayenneLpp),
        Arc::new(returning("null")),
    ];
    let calls: Vec<_> = (0..200_u8)
        .map(|n| DecodeJob {
            codec: Arc::clone(&scripts[usize::from(n) % scripts.len()]),
            bytes: vec![n, 0, n],
            f_port: 1,
            recv_time_us: 0,
        })
        .collect();

    let answers = pool.decode_batch(calls).await;

    assert_eq!(answers.len(), 200);
    for (n, answer) in answers.iter().enumerate() {
        match n % 4 {
            0 => assert_eq!(answer.object_json, format!(r#"{{"n":{n}}}"#)),
            1 => assert_eq!(*answer, Decoded::default()),
            2 => assert_eq!(answer.object_json, format!(r#"{{"digitalInput":{{"{n}":{n}}}}}"#)),
            _ => assert!(answer.errors[0].contains("returned null")),
        }
    }
    assert!(pool.decode_batch(Vec::new()).await.is_empty());
}

#[tokio::test]
async fn many_codecs_share_a_thread_and_each_keeps_its_own_source() {
    let pool = pool();
    for round in 0..2 {
        for n in 0..20 {
            let codec = Codec::Script {
                id: format!("codec-{n}"),
                revision: 1,
                source: format!("function decodeUplink() {{ return {{data: {{n: {n}}}}}; }}").into(),
            };
            let decoded = pool.decode_uplink(&codec, &[], 1, 0).await;
            assert_eq!(decoded.object_json, format!(r#"{{"n":{n}}}"#), "round {round}");
        }
    }
    // The same name and revision with another text, as a test of an unsaved script has it.
    let other = Codec::Script {
        id: "codec-19".to_owned(),
        revision: 1,
        source: "function decodeUplink() { return {data: {n: 'other'}}; }".into(),
    };
    assert_eq!(pool.decode_uplink(&other, &[], 1, 0).await.object_json, r#"{"n":"other"}"#);
}

#[tokio::test]
async fn a_realm_is_replaced_after_its_calls_and_nobody_notices() {
    let pool = pool();
    let codec = Arc::new(returning("{data: {n: input.bytes[0]}}"));
    for _ in 0..11 {
        let calls = (0..1000_u32)
            .map(|n| DecodeJob {
                codec: Arc::clone(&codec),
                bytes: vec![(n % 251).try_into().unwrap()],
                f_port: 1,
                recv_time_us: 0,
            })
            .collect();
        for (n, answer) in pool.decode_batch(calls).await.iter().enumerate() {
            assert_eq!(answer.object_json, format!(r#"{{"n":{}}}"#, n % 251));
        }
    }
}

#[tokio::test]
async fn compile_check_names_the_functions_or_the_line() {
    let pool = pool();
    assert_eq!(
        pool.compile_check("function encodeDownlink() {} function decodeUplink() {} function other() {}").await,
        Ok(vec!["decodeUplink", "encodeDownlink"])
    );
    assert_eq!(pool.compile_check("var decodeUplink = 3;").await, Err(CodecError::NoFunctions));
    assert_eq!(pool.compile_check("").await, Err(CodecError::NoFunctions));
    let Err(CodecError::Broken(text)) = pool.compile_check("function decodeUplink() {\n  return {;\n}").await
    else {
        panic!("compiled");
    };
    assert!(text.starts_with("the codec threw SyntaxError: ") && text.ends_with("(line 2)"), "{text}");
    let Err(CodecError::Broken(text)) = pool.compile_check("function decodeUplink() {}\nnothing.here();").await
    else {
        panic!("ran");
    };
    assert_eq!(text, "the codec threw ReferenceError: nothing is not defined (line 2)");
    assert!(matches!(pool.compile_check("a\0b").await, Err(CodecError::Broken(_))));
    let long = " ".repeat(SOURCE_BYTES_MAX + 1);
    assert_eq!(pool.compile_check(&long).await, Err(CodecError::TooLong(SOURCE_BYTES_MAX + 1)));
}

#[tokio::test]
async fn devices_without_a_script_need_no_thread() {
    let pool = pool();
    assert_eq!(pool.decode_uplink(&Codec::None, &[1], 1, 0).await, Decoded::default());
    let lpp = pool.decode_uplink(&Codec::CayenneLpp, &[3, 103, 1, 16], 1, 0).await;
    assert_eq!(lpp.object_json, r#"{"temperatureSensor":{"3":27.2}}"#);
    let encoded = pool.encode_downlink(&Codec::CayenneLpp, r#"{"digitalOutput": {"4": 1}}"#).await;
    assert_eq!(encoded.bytes, [4, 1, 1]);
    assert!(pool.encode_downlink(&Codec::None, "{}").await.errors[0].contains("no codec"));
}
