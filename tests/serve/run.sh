#!/usr/bin/env bash
# run.sh: `kto serve` on a run of the demo: answers, streams, every kind of bad request, slow, vanished and too many clients,
# and how it starts and ends. Needs curl (exit code 77 without), and BENCH_SERVE, the load's program.
. "$(dirname "$0")/../runs/common.sh"
command -v curl >/dev/null || {
    echo "skipped: curl is not installed"
    exit 77
}
cd "$GOLDEN/../.." || exit 1
failures=0
failed() {
    echo "FAILED $1"
    failures=$((failures + 1))
}
stop_server() { # the server that runs, if one does
    [[ -n ${server:-} ]] && kill -KILL "$server" 2>/dev/null
    server=
}
trap 'stop_server; rm -rf "$WORK"' EXIT

# start [OPTION ...]: sets server (its process) and url.
start() {
    : >"$WORK/server.log" # not the last one's
    "$KTO" serve "$run" --port 0 "$@" >>"$WORK/server.log" 2>&1 &
    server=$!
    for ((i = 0; i < 200; i++)); do
        url=$(grep -o 'http://[^ ]*/' "$WORK/server.log") && break
        kill -0 $server 2>/dev/null || break
        sleep 0.1
    done
    [[ -n $url ]] || { cat "$WORK/server.log" && echo "the server does not start" && exit 1; }
}
# ends [SECONDS]: asks the server to stop; it must, with exit code 0.
ends() {
    kill -TERM "$server"
    for ((i = 0; i < ${1:-8} * 20; i++)); do
        kill -0 "$server" 2>/dev/null || break
        sleep 0.05
    done
    kill -0 "$server" 2>/dev/null && failed "the server does not end" && stop_server
    wait "$server"
    local code=$?
    ((code == 0)) || failed "exit code $code at the end"
    server=
}
ask() { # PATH BODY [CURL OPTION ...]
    curl -sS --max-time 60 -H 'Content-Type: application/json' -d "$2" "${@:3}" "$url$1"
}
content() { sed -n 's/.*"content":"\(\([^"\\]\|\\.\)*\)".*/\1/p'; }
# refused NAME STATUS MESSAGE CURL_ARGUMENTS...: the status, and the message in the answer (a part of it).
refused() {
    local name=$1 status=$2 message=$3
    shift 3
    local got
    got=$(curl -sS --max-time 60 -o "$WORK/answer" -w '%{http_code}' "$@" 2>"$WORK/curl.log")
    [[ $got == "$status" ]] || failed "$name: status $got, expected $status: $(head -c 300 "$WORK/answer")"
    grep -qF -- "$message" "$WORK/answer" || failed "$name: no \"$message\" in: $(head -c 300 "$WORK/answer")"
}
healthy() { curl -sS --max-time 10 "${url}health" | grep -q '"status":"ok"' || failed "after $1 the server is not well"; }

run=$WORK/run
"$KTO" train configs/demo/demo.cfg train.output_dir="$run" train.max_steps=2 train.eval_steps=0 device.backend=cpu \
    >"$WORK/log" 2>&1 || { cat "$WORK/log" && exit 1; }

# --- answers ---

start
title='A study of graph diffusion for bird song recognition on a small budget'
messages='"messages":[{"role":"user","content":"'$title'"}]'
[[ $(ask v1/chat/completions "{$messages,\"temperature\":0}" | content) == \
    $(grep -F "$title" configs/demo/titles.jsonl >"$WORK/one.jsonl" && "$KTO" sample "$run" --prompts "$WORK/one.jsonl" --greedy \
        2>/dev/null | sed 's/.*"completion": *"\(.*\)".*/\1/') ]] || failed "the greedy answer is not that of kto sample"
whole=$(ask v1/chat/completions "{$messages,\"seed\":5}" | content)
[[ ${#whole} -gt 10 ]] || failed "no answer: $whole"
[[ $(ask v1/chat/completions "{$messages,\"seed\":5}" | content) == "$whole" ]] || failed "the same seed gives another answer"
ask v1/chat/completions "{$messages,\"seed\":5,\"stream\":true,\"stream_options\":{\"include_usage\":true}}" -N >"$WORK/stream"
[[ $(content <"$WORK/stream" | tr -d '\n') == "$whole" ]] || failed "the stream is not the whole: $(cat "$WORK/stream")"
grep -q '^data: \[DONE\]' "$WORK/stream" || failed "the stream has no end"
grep -q '"finish_reason":"stop"' "$WORK/stream" || failed "the stream has no finish_reason"
grep -q '"total_tokens"' "$WORK/stream" || failed "the stream has no usage"
stop=${whole:8:4}
[[ $(ask v1/chat/completions "{$messages,\"seed\":5,\"stop\":[\"$stop\",\"never\"]}" | content) == "${whole%%"$stop"*}" ]] ||
    failed "a stop text does not end the answer before it"
ask v1/chat/completions "{$messages,\"seed\":5,\"max_tokens\":3}" | grep -q '"finish_reason":"length".*"completion_tokens":3' ||
    failed "max_tokens"
ask v1/completions '{"prompt":"Reject:","max_tokens":4,"model":"base"}' | grep -q '"object":"text_completion".*"model":"base"' ||
    failed "a completion"
ask v1/chat/completions '{"messages":[{"role":"user","content":[{"type":"text","text":"A"},{"type":"text","text":"B"}]}]}' |
    grep -q '"role":"assistant"' || failed "a message of parts"
ask review "{\"title\":\"$title\"}" -N >"$WORK/stream"
for who in tuned base; do
    grep -q "\"who\":\"$who\",\"text\":\"[^\"]" "$WORK/stream" || failed "the review has no words of $who"
    grep -q "\"who\":\"$who\".*\"end\":\"" "$WORK/stream" || failed "the review of $who has no end"
done
grep -q '^data: \[DONE\]' "$WORK/stream" || failed "the review has no end"
curl -sS "${url}v1/models" | grep -q '"id":"run".*"id":"base"' || failed "models"

# --- the page ---

curl -sS -D "$WORK/headers" "$url" >"$WORK/page"
for header in 'Content-Security-Policy: default-src .none.' 'X-Content-Type-Options: nosniff' 'X-Frame-Options: DENY' \
    'Referrer-Policy:' 'Cache-Control: no-store'; do
    grep -q "^$header" "$WORK/headers" || failed "the page comes without $header"
done
[[ $(grep -c 'class="example"' "$WORK/page") == 3 ]] || failed "the page has no examples"
curl -sS "$url" --data-urlencode 'title=<script>alert("1")</script>&'"'" >"$WORK/page"
grep -q 'value="&lt;script&gt;alert(&quot;1&quot;)&lt;/script&gt;&amp;&#39;"' "$WORK/page" || failed "the title comes back changed"
! grep -q '<script>alert' "$WORK/page" || failed "text of a user is HTML"
[[ $(grep -c 'class="answer"[^>]*>[^<]' "$WORK/page") == 2 ]] || failed "the plain form has no answers"
for file in style.css app.js; do curl -sSf "$url$file" >/dev/null || failed "$file"; done
curl -sSI "$url" | grep -q '200 OK' || failed "HEAD"

# --- bad requests ---

json='Content-Type: application/json'
refused "no such path" 404 'nothing at this path' "${url}no"
refused "wrong method" 405 'does not take that method' -X DELETE "$url"
refused "no JSON" 400 'the body is no JSON' -H "$json" -d '{"messages":' "${url}v1/chat/completions"
refused "an array" 400 'must be a JSON object' -H "$json" -d '[]' "${url}v1/chat/completions"
refused "NUL" 400 'the body is no JSON' -H "$json" -d '{"messages":[{"role":"user","content":"a\u0000b"}]}' "${url}v1/chat/completions"
refused "no UTF-8" 400 'the body is no JSON' -H "$json" --data-binary $'{"messages":[{"role":"user","content":"\xff"}]}' "${url}v1/chat/completions"
refused "deep" 400 'the body is no JSON' -H "$json" -d "$(printf '[%.0s' {1..5000})" "${url}v1/chat/completions"
refused "no messages" 400 'messages must be a list' -H "$json" -d '{}' "${url}v1/chat/completions"
refused "message of a wrong type" 400 'messages must each have a role' -H "$json" -d '{"messages":["a"]}' "${url}v1/chat/completions"
refused "content of a wrong type" 400 'messages must have as content text or a list of parts' -H "$json" -d '{"messages":[{"role":"user","content":5}]}' "${url}v1/chat/completions"
refused "an image" 400 'messages must have as content text or a list of parts' -H "$json" -d '{"messages":[{"role":"user","content":[{"type":"image_url"}]}]}' "${url}v1/chat/completions"
refused "unknown role" 400 'role' -H "$json" -d '{"messages":[{"role":"wizard","content":"x"},{"role":"user","content":"x"}]}' "${url}v1/chat/completions"
refused "assistant last" 400 "last message must be the user's" -H "$json" -d '{"messages":[{"role":"assistant","content":"x"}]}' "${url}v1/chat/completions"
refused "temperature" 400 'temperature must be a number from 0 to 100' -H "$json" -d "{$messages,\"temperature\":\"hot\"}" "${url}v1/chat/completions"
refused "max_tokens" 400 'max_tokens must be a whole number' -H "$json" -d "{$messages,\"max_tokens\":0}" "${url}v1/chat/completions"
refused "huge integer" 400 'the body is no JSON' -H "$json" -d "{$messages,\"seed\":99999999999999999999}" "${url}v1/chat/completions"
refused "n" 400 'n must be 1' -H "$json" -d "{$messages,\"n\":2}" "${url}v1/chat/completions"
refused "stop" 400 'stop must be' -H "$json" -d "{$messages,\"stop\":[\"\"]}" "${url}v1/chat/completions"
refused "tools" 400 'tools is not supported' -H "$json" -d "{$messages,\"tools\":[{}]}" "${url}v1/chat/completions"
refused "model" 404 'there is no such model; there are \"run\" and \"base\"' -H "$json" -d "{$messages,\"model\":\"gpt\"}" "${url}v1/chat/completions"
refused "prompt" 400 'prompt must be one text' -H "$json" -d '{"prompt":[1,2]}' "${url}v1/completions"
refused "long prompt" 400 'is longer than the 512' -H "$json" -d "{\"prompt\":\"$(printf 'word %.0s' {1..1000})\"}" "${url}v1/completions"
refused "content type" 415 'must be application/json' -d "{$messages}" "${url}v1/chat/completions"
refused "no title" 400 'the body must be {' -H "$json" -d '{"title":7}' "${url}review"
refused "empty title" 400 'the title is empty' -H "$json" -d '{"title":"  "}' "${url}review"
refused "long title" 400 'the title is too long' -H "$json" -d "{\"title\":\"$(printf 'x%.0s' {1..3000})\"}" "${url}review"
refused "empty form" 400 'the title is empty' -d 'title=' "$url"
refused "form without UTF-8" 400 'the title is no UTF-8' -d 'title=%ff' "$url"
head -c 2000000 /dev/zero | tr '\0' ' ' >"$WORK/large"
refused "large body" 413 'the body is too large' -H "$json" -H 'Expect:' --data-binary @"$WORK/large" "${url}review"
refused "large body in chunks" 413 'the body is too large' -H "$json" -H 'Expect:' -H 'Transfer-Encoding: chunked' --data-binary @"$WORK/large" "${url}review"
refused "another host's name" 403 'does not answer to that name' -H 'Host: evil.example' "$url"
refused "another site's form" 403 'does not answer to that name' -H 'Origin: http://evil.example' -d 'title=x' "$url"
curl -sS -o /dev/null -H "X-Large: $(printf 'x%.0s' {1..60000})" "$url" 2>/dev/null # closed, or 431
printf 'NOT HTTP AT ALL\r\n\r\n' | timeout 5 bash -c 'exec 3<>/dev/tcp/127.0.0.1/'"$(sed 's/.*:\([0-9]*\)\/$/\1/' <<<"$url")"'; cat >&3; cat <&3' >/dev/null
healthy "bad requests"

# --- clients that go, and the end while one is answered ---

for ((i = 0; i < 20; i++)); do
    ask v1/chat/completions "{$messages,\"stream\":true}" -N --max-time 0.01 >/dev/null 2>&1
done
for ((i = 0; i < 100; i++)); do
    curl -sS "${url}health" | grep -q '"answering":0,"waiting":0' && break
    sleep 0.05
done
((i < 100)) || failed "clients that went are still answered"
ends

# --- limits ---

start --sequences 1 --queue 1
"$BENCH_SERVE" --clients 8 --seconds 3 --port "$(sed 's/.*:\([0-9]*\)\/$/\1/' <<<"$url")" configs/demo/titles.jsonl >"$WORK/bench" 2>&1 ||
    failed "a full queue: $(cat "$WORK/bench")"
grep -q ' [1-9][0-9]* asked to come back (503), 0 failed' "$WORK/bench" || failed "a full queue says nothing: $(cat "$WORK/bench")"
ends
start --request-seconds 1.5
# A byte a second: closed in time, while others are answered.
port=$(sed 's/.*:\([0-9]*\)\/$/\1/' <<<"$url")
(
    trap '' PIPE
    exec 3<>"/dev/tcp/127.0.0.1/$port"
    for character in G E T ' ' / ' ' H T T P; do
        printf '%s' "$character" >&3 2>/dev/null || exit 0
        sleep 1
    done
    exit 1
) 2>/dev/null &
slow=$!
sleep 0.5
healthy "a slow client"
[[ -n $(ask v1/chat/completions "{$messages}" | content) ]] || failed "nobody is answered beside a slow client"
begin=$SECONDS
wait $slow || failed "a client of a byte a second is not sent away"
((SECONDS - begin < 8)) || failed "a slow client was kept $((SECONDS - begin)) s"
ends

start --connections 1100
"$BENCH_SERVE" --clients 1000 --seconds 4 --port "$(sed 's/.*:\([0-9]*\)\/$/\1/' <<<"$url")" configs/demo/titles.jsonl >"$WORK/bench" 2>&1 ||
    failed "1000 connections: $(cat "$WORK/bench")"
cat "$WORK/bench"
healthy "1000 connections"
# Asked to end while it answers: what is under way is ended properly.
ask v1/chat/completions "{$messages,\"stream\":true}" -N >"$WORK/stream" 2>&1 &
asked=$!
ends
wait $asked
[[ ! -s $WORK/stream ]] || grep -q '^data: \[DONE\]' "$WORK/stream" || grep -q 'stopping\|refused\|reset' "$WORK/stream" ||
    failed "a stream was cut: $(tail -n 3 "$WORK/stream")"

# --- a token ---

echo 'secret-1' >"$WORK/token"
start --token "$WORK/token"
refused "no token" 401 'the access token is missing' -H "$json" -d "{$messages}" "${url}v1/chat/completions"
refused "wrong token" 401 'the access token is missing' -H "$json" -H 'Authorization: Bearer secret-2' -d "{$messages}" "${url}v1/chat/completions"
refused "form without token" 401 'the access token is missing' -d 'title=x' "$url"
[[ -n $(ask v1/chat/completions "{$messages}" -H 'Authorization: Bearer secret-1' | content) ]] || failed "the right token"
curl -sS "$url" | grep -q 'name="token"' || failed "the page does not ask for the token"
curl -sS -d 'title=x&token=secret-1' "$url" | grep -q 'class="answer"[^>]*>[^<]' || failed "the form with the right token"
[[ $(curl -sS -o /dev/null -w '%{http_code}' "${url}health") == 200 ]] || failed "health needs no token"

# --- how it starts ---

starts_not() { # NAME CODE MESSAGE ARGUMENTS...
    timeout 20 "$KTO" serve "${@:4}" >"$WORK/out" 2>&1
    local code=$?
    [[ $code == "$2" ]] || failed "$1: exit code $code, expected $2: $(cat "$WORK/out")"
    grep -qF -- "$3" "$WORK/out" || failed "$1: no \"$3\" in: $(cat "$WORK/out")"
    [[ $(grep -c '^kto: error: ' "$WORK/out") == 1 ]] || failed "$1: more than one line: $(cat "$WORK/out")"
}
port=$(sed 's/.*:\([0-9]*\)\/$/\1/' <<<"$url")
starts_not "port in use" 2 "port $port cannot be listened on" "$run" --port "$port"
ends
starts_not "no address" 2 'is no IP address' "$run" --host example
starts_not "no run" 2 'nowhere' nowhere
starts_not "empty token" 2 'is empty; it must hold the token' "$run" --token /dev/null
starts_not "no template" 3 'must hold {title} once' "$run" --prompt-template "$WORK/token"
# Another model in the place of the run's.
cp -r configs/demo/model "$WORK/model"
printf '\1' | dd of="$WORK/model/model.safetensors" bs=1 seek=1000000 conv=notrunc status=none
cp -r "$run" "$WORK/other"
sed -i "s|configs/demo/model|$WORK/model|" "$WORK/other/config.cfg"
starts_not "another model" 3 'is of base weights with hash' "$WORK/other"
# A run that goes on has no adapter yet.
mv "$run/adapter" "$WORK/adapter"
printf 'Review: {title}\n' >"$WORK/template"
start --prompt-template "$WORK/template"
grep -q '^adapter .*/checkpoints/step-000002.h5' "$WORK/server.log" || failed "the newest checkpoint is not named: $(cat "$WORK/server.log")"
grep -qF 'prompts  "Review: {title}\n"' "$WORK/server.log" || failed "the template is not named"
[[ -n $(ask v1/chat/completions "{$messages}" | content) ]] || failed "no answer by a template"
ends
mv "$run/checkpoints" "$WORK/checkpoints"
starts_not "no checkpoint" 2 'no adapter and no checkpoint yet' "$run"

((failures == 0)) || exit 1
echo "all answered"
