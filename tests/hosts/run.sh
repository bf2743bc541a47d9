#!/usr/bin/env bash
# run.sh: two network namespaces with a cable (veth) between them as two hosts, a rank on each. The run has the bits of one on
# a single host; rows that differ are refused; when the cable is cut in the middle, both ranks end within device.timeout_seconds + 10 s with a clear line,
# and with the cable back the same command goes on to those bits. Exit code 77 where namespaces may not be made.
. "$(dirname "$0")/../runs/common.sh"
name=d timeout=10
words=(train.save_steps=3 train.save_total_limit=100 device.timeout_seconds=$timeout)
fail() {
    cat "$WORK/log"
    echo "$1"
    exit 1
}
skip() {
    echo "skipped: $1"
    exit 77
}
command -v ip >/dev/null || skip "iproute2 is not installed"
((EUID == 0)) || skip "network namespaces need root"
first=kto-a-$$ second=kto-b-$$
end() {
    local pids
    for host in $first $second; do
        pids=$(ip netns pids $host 2>/dev/null)
        # shellcheck disable=SC2086
        [[ -z $pids ]] || kill -KILL $pids 2>/dev/null
        ip netns delete $host 2>/dev/null
    done
    rm -rf "$WORK"
}
trap end EXIT
ip netns add $first 2>/dev/null && ip netns add $second 2>/dev/null || skip "network namespaces may not be made here"
ip link add cable netns $first type veth peer name cable netns $second 2>"$WORK/log" || skip "veth may not be made here"
ip -n $first address add 10.77.0.1/24 dev cable
ip -n $second address add 10.77.0.2/24 dev cable
for host in $first $second; do
    ip -n $host link set lo up
    ip -n $host link set cable up
done
# What ssh is on real hosts: a command on the other host, which has a name of its own.
cat >"$WORK/agent" <<END
#!/bin/sh
shift
exec ip netns exec $second unshare --uts sh -c "hostname $second; \$*"
END
chmod +x "$WORK/agent"
export OMPI_MCA_plm_rsh_agent=$WORK/agent OMPI_MCA_btl_tcp_if_include=10.77.0.0/24 OMPI_MCA_oob_tcp_if_include=10.77.0.0/24
# mpirun notices a host that is gone by keepalive, after 480 s by default. Here sooner, and before device.timeout_seconds.
export OMPI_MCA_oob_tcp_keepalive_time=2 OMPI_MCA_oob_tcp_keepalive_intvl=1 OMPI_MCA_oob_tcp_keepalive_probes=3
export OMPI_MCA_pml=ob1 OMPI_MCA_btl=self,vader,tcp
on_two() { # OUTPUT_DIR [FOLDER]: the second host works in FOLDER
    local kto=("$KTO" train $name/run.cfg train.output_dir="$1" "${words[@]}") host=(-n 1 -x OMP_NUM_THREADS -x OMP_WAIT_POLICY --host)
    exec ip netns exec $first unshare --uts sh -c 'hostname "$1"; shift; exec "$@"' sh $first mpirun "${host[@]}" 10.77.0.1:1 "${kto[@]}" : \
        "${host[@]}" 10.77.0.2:1 -wdir "${2-$PWD}" "${kto[@]}" >"$WORK/log" 2>&1
}
now() { date +%s%N; }
# A cable that was just plugged in takes a moment until packets pass; a refused connection is an answer.
meet() {
    for host in $first $second; do
        for address in 10.77.0.1 10.77.0.2; do
            for ((try = 0; try < 300; try++)); do
                ip netns exec $host bash -c "echo >/dev/tcp/$address/9" 2>&1 | grep -q refused && break
                sleep 0.1
            done
            ((try < 300)) || fail "no packets pass from $host to $address"
        done
    done
}

train $name 2 "$WORK/whole" "${words[@]}"
meet
(on_two "$WORK/two") || fail "two hosts: exit code $?"
"$COMPARE_RUNS" same "$WORK/whole" "$WORK/two" 2>"$WORK/log" || fail "two hosts: differs from one"
echo "two hosts: the same bits as one"

# A row's label, which no batch's layout depends on.
mkdir "$WORK/stale"
cp -r tiny-model a b c d "$WORK/stale"
sed -i '1s/"label": *true/"label": false/; 1t; 1s/"label": *false/"label": true/' "$WORK/stale/$name/rows.jsonl"
(on_two "$WORK/unlike" "$WORK/stale")
status=$?
((status == 2)) && grep -q 'kto: error: rank 0 has rows of hashes .*, but rank 1 has rows of hashes .*; give all' "$WORK/log" ||
    fail "rows that differ: exit code $status"
echo "rows that differ: refused"

(on_two "$WORK/cut") &
launcher=$!
until compgen -G "$WORK/cut/checkpoints/step-*.h5" >/dev/null || ! kill -0 $launcher 2>/dev/null; do sleep 0.002; done
ip -n $first link set cable down
begin=$(now)
wait $launcher
status=$?
milliseconds=$((($(now) - begin) / 1000000))
((status != 0)) || fail "a cut cable: exit code 0"
until [[ -z $(pgrep -f -- "$KTO train $name/run.cfg train.output_dir=$WORK/cut ") ]]; do
    ((($(now) - begin) / 1000000 < 1000 * (timeout + 10))) || fail "a cut cable: a rank is still there"
    sleep 0.1
done
grep -qE 'kto: error: .*did not (reach|end)|lost communication with a remote daemon' "$WORK/log" || fail "a cut cable: nobody says so"
echo "a cut cable: exit code $status after $milliseconds ms, all ranks gone after $((($(now) - begin) / 1000000)) ms"
ip -n $first link set cable up
meet
(on_two "$WORK/cut") || fail "with the cable back: exit code $?"
"$COMPARE_RUNS" same "$WORK/whole" "$WORK/cut" 2>"$WORK/log" || fail "with the cable back: differs"
echo "with the cable back: the same bits"
