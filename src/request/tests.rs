//! What is read from bodies, and what is put into them, byte for byte.

use super::*;

fn read(body: &str) -> Envelope {
    Envelope::read(body.as_bytes()).unwrap()
}

fn filled(body: &str, key: Option<&str>, sealed: bool) -> String {
    let bytes = Bytes::copy_from_slice(body.as_bytes());
    let splices = read(body).fill_in(Fill {
        cache_key: key,
        sealed_reasoning: sealed,
        ..Fill::default()
    });
    let pieces = spliced(&bytes, splices);
    String::from_utf8(pieces.concat()).unwrap()
}

#[test]
fn the_fields_that_route_are_found_wherever_they_stand() {
    let envelope = read(
        r#" { "input":"hi", "mod\u0065l" : "gpt-5.6","stream":true, "store":false,
                 "previous_response_id":"resp_1","service_tier":"flex" } "#,
    );
    assert_eq!(envelope.model.as_deref(), Some("gpt-5.6"));
    assert!(envelope.stream && envelope.store == Some(false));
    assert_eq!(envelope.previous_response_id.as_deref(), Some("resp_1"));
    assert_eq!(envelope.service_tier.as_deref(), Some("flex"));
    assert_eq!(envelope.input_items, 1);
}

#[test]
fn a_missing_cache_key_is_put_in_and_nothing_else_changes() {
    assert_eq!(
        filled("{\"a\" : 1.0e2 }\n", Some("k"), false),
        "{\"a\" : 1.0e2 ,\"prompt_cache_key\":\"k\"}\n"
    );
    assert_eq!(filled("{}", Some("k"), false), r#"{"prompt_cache_key":"k"}"#);
    assert_eq!(
        filled(r#"{"prompt_cache_key":"mine"}"#, Some("k"), false),
        r#"{"prompt_cache_key":"mine"}"#
    );
}

#[test]
fn a_null_is_replaced_where_it_stands() {
    assert_eq!(
        filled(r#"{"prompt_cache_key": null ,"x":1}"#, Some("k"), false),
        r#"{"prompt_cache_key": "k" ,"x":1}"#
    );
}

#[test]
fn sealed_reasoning_is_asked_for_only_where_reasoning_is_set_and_include_is_not() {
    let asked = r#"["reasoning.encrypted_content"]"#;
    assert_eq!(
        filled(r#"{"reasoning":{"effort":"low"}}"#, None, true),
        format!(r#"{{"reasoning":{{"effort":"low"}},"include":{asked}}}"#)
    );
    for body in [
        r#"{"reasoning":null}"#,
        r#"{"reasoning":{}}"#,
        r#"{"reasoning":{"effort":null,"summary":null}}"#,
        r#"{"reasoning":{"effort":"low"},"include":[]}"#,
    ] {
        assert_eq!(filled(body, None, true), body);
    }
    assert_eq!(
        filled(
            r#"{"include":null,"reasoning":{"effort":"low"}}"#,
            Some("k"),
            true
        ),
        format!(r#"{{"include":{asked},"reasoning":{{"effort":"low"}},"prompt_cache_key":"k"}}"#)
    );
}

#[test]
fn legal_json_of_every_kind_is_accepted() {
    for body in [
        r#"{"n":12345678901234567890123,"e":1e999,"\ud800":"\ud800"}"#,
        r#"{"model":7,"stream":"yes","input":{"a":[1]},"tools":null}"#,
        r#"{"input":[1,"x",null,[2],{"role":5},{"content":"a","role":"user"}]}"#,
        r#"{"model":"a","model":"b"}"#,
    ] {
        read(body);
    }
    assert_eq!(read(r#"{"model":"a","model":"b"}"#).model.as_deref(), Some("b"));
}

#[test]
fn what_is_no_object_is_refused_with_its_position() {
    let Err(Unreadable::NotAnObject(error)) = Envelope::read(b"{\"a\":1,\n oops}") else {
        panic!("it is no object");
    };
    assert_eq!((error.line, error.column), (2, 2));
    assert!(!error.message.contains("line"));
    for body in ["", "[]", "{} {}", "nul", "{\"a\":}", "\"x\""] {
        assert!(Envelope::read(body.as_bytes()).is_err(), "{body}");
    }
}

#[test]
fn figures_are_asked_for_where_the_client_did_not() {
    let asked = |body: &str| {
        let bytes = Bytes::copy_from_slice(body.as_bytes());
        let splices = read(body).fill_in(Fill {
            usage: true,
            ..Fill::default()
        });
        String::from_utf8(spliced(&bytes, splices).concat()).unwrap()
    };
    let cases = [
        (
            r#"{"stream":true}"#,
            r#"{"stream":true,"stream_options":{"include_usage":true}}"#,
        ),
        (
            r#"{"stream":true,"stream_options": null }"#,
            r#"{"stream":true,"stream_options": {"include_usage":true} }"#,
        ),
        (
            r#"{"stream":true,"stream_options":{ "x":1}}"#,
            r#"{"stream":true,"stream_options":{"include_usage":true, "x":1}}"#,
        ),
        (
            r#"{"stream":true,"stream_options":{ }}"#,
            r#"{"stream":true,"stream_options":{"include_usage":true }}"#,
        ),
        (
            r#"{"stream_options":{"include_usage":false},"stream":true}"#,
            r#"{"stream_options":{"include_usage":true},"stream":true}"#,
        ),
    ];
    for (body, expected) in cases {
        assert_eq!(asked(body), expected);
        assert!(read(body).lacks_usage(), "{body}");
    }
    for body in [
        r#"{"stream":true,"stream_options":{"include_usage":true}}"#,
        r#"{"stream":false}"#,
    ] {
        assert_eq!(asked(body), body);
        assert!(!read(body).lacks_usage(), "{body}");
    }
}

#[test]
fn what_an_input_points_with_is_found_newest_last() {
    let envelope = read(
        r#"{"conversation":{"id":"conv_1"},"input":[
                {"type":"item_reference","id":"msg_1"},{"id":"msg_2"},
                {"type":"reasoning","id":"rs_1","summary":[],"encrypted_content":"gA"},
                {"type":"reasoning","id":"rs_2","summary":[],"encrypted_content":null},
                {"type":"compaction","id":"cmp_1","encrypted_content":"gC"},
                {"type":"message","id":"msg_3","role":"assistant","content":[]}]}"#,
    );
    assert_eq!(envelope.conversation.as_deref(), Some("conv_1"));
    let ids: Vec<&str> = envelope.ids.iter().map(|named| named.id.as_str()).collect();
    assert_eq!(ids, ["msg_1", "msg_2"]);
    let sealed: Vec<(usize, bool)> = envelope
        .sealed
        .iter()
        .map(|sealed| (sealed.position, sealed.is_compaction))
        .collect();
    assert_eq!(sealed, [(2, false), (3, false), (4, true)]);
    assert_eq!(envelope.sealed[1].by, SealedBy::Id("rs_2".into()));
    assert_eq!(envelope.item_ids, ["msg_3"]);
    assert_eq!(
        read(r#"{"conversation":"conv_2"}"#).conversation.as_deref(),
        Some("conv_2")
    );
}

#[test]
fn agents_are_told_apart_by_instructions_and_tools_and_by_nothing_else() {
    let lane = |body: &str| read(body).lane;
    let base = lane(r#"{"instructions":"a","tools":[],"input":"x","model":"m"}"#);
    assert_eq!(
        base,
        lane(r#"{"instructions":"a","tools":[],"input":"y","model":"n"}"#)
    );
    assert_ne!(base, lane(r#"{"instructions":"b","tools":[]}"#));
    assert_ne!(base, lane(r#"{"instructions":"a","tools":[{}]}"#));
    let chat = |system: &str| {
        lane(&format!(
            r#"{{"messages":[{{"role":"system","content":"{system}"}},{{"role":"user","content":"x"}}]}}"#
        ))
    };
    assert_ne!(chat("a"), chat("b"));
}

#[test]
fn the_prefix_stays_while_a_conversation_grows() {
    let head = r#""model":"m","instructions":"be brief","tools":[{"type":"function"}]"#;
    let first = read(&format!(
        r#"{{{head},"input":[{{"role":"user","content":"hello"}}]}}"#
    ));
    let grown = read(&format!(
        r#"{{{head},"input":[{{"role":"user","content":"hello"}},
               {{"role":"assistant","content":"hi"}},{{"role":"user","content":"more"}}]}}"#
    ));
    let other = read(&format!(
        r#"{{{head},"input":[{{"role":"user","content":"goodbye"}}]}}"#
    ));
    assert_eq!(first.prefix, grown.prefix);
    assert_ne!(first.prefix, other.prefix);
    assert!(!first.has_history && grown.has_history);
    assert_eq!(grown.input_items, 3);
}

#[test]
fn long_first_messages_are_told_apart_by_their_ends_and_length() {
    let prefix =
        |text: String| read(&format!(r#"{{"input":[{{"role":"user","content":"{text}"}}]}}"#)).prefix;
    let long = "x".repeat(200_000);
    let known = prefix(long.clone());
    assert_eq!(known, prefix(long.clone()));
    for other in [
        format!("y{}", &long[1..]),
        format!("{}y", &long[1..]),
        format!("{long}x"),
    ] {
        assert_ne!(known, prefix(other));
    }
}

#[test]
fn parts_of_the_prefix_do_not_run_into_each_other() {
    let one = read(r#"{"model":"ab","instructions":"c","input":"x"}"#);
    let two = read(r#"{"model":"a","instructions":"bc","input":"x"}"#);
    assert_ne!(one.prefix, two.prefix);
}
