#!/usr/bin/env bash
# chroot.sh FOLDER: the packages in FOLDER (from cpack) in a Debian or Ubuntu that has nothing else, of this machine's
# release: dpkg -i and apt-get -f install, then the demo alone and on two ranks by an ordinary user, the manual pages, and
# all gone after removing. Run by hand; takes some minutes and 1 GB in TMPDIR (debian.sh says what it needs).
set -euo pipefail
. "${BASH_SOURCE[0]%/*}/debian.sh"
packages=$(realpath "${1:?usage: chroot.sh FOLDER-WITH-PACKAGES}")
debian_enter "$packages"
debian_make
mkdir -p "$root/packages"
cp "$packages"/kto*.deb "$root/packages/"

# As an ordinary user, in a folder of its own.
user() {
    inside runuser -u someone -- sh -c "cd && $*"
}
inside sh -c 'id someone >/dev/null 2>&1 || useradd --create-home someone'
inside dpkg -i "/packages/$(basename "$(ls "$packages"/kto_*.deb)")" && echo "dpkg was content at once: something was installed before"
inside apt-get -qq -y --no-install-recommends -f install >/dev/null
inside dpkg -s kto | grep '^Status: install ok installed'
inside apt-get -qq -y --no-install-recommends install openmpi-bin >/dev/null # recommended by kto

demo=/usr/share/kto/configs/demo
user kto --version
user kto check $demo/demo.cfg
user rm -rf runs
user kto train $demo/demo.cfg train.max_steps=3 train.eval_steps=0 train.output_dir=runs/alone
# (Open MPI counts cores; a container may have one.)
user OMP_NUM_THREADS=1 mpirun -n 2 --oversubscribe --bind-to none kto train $demo/demo.cfg train.max_steps=3 train.eval_steps=0 train.output_dir=runs/two
user "head -n2 $demo/titles.jsonl >ask.jsonl && kto sample runs/two --prompts ask.jsonl --greedy"
inside sh -c 'zcat /usr/share/man/man1/kto-train.1.gz | grep "^.TH KTO"'
inside bash -c '. /usr/share/bash-completion/completions/kto && complete -p kto'

if ls "$packages"/kto-cuda_*.deb >/dev/null 2>&1; then
    inside sh -c 'dpkg -i /packages/kto-cuda_*.deb'
    # Without NVIDIA's libraries: the CPU where it is left open, a message where the GPU is asked for.
    user kto train $demo/demo.cfg train.max_steps=3 train.eval_steps=0 train.output_dir=runs/auto
    status=0
    user kto train $demo/demo.cfg device.backend=cuda train.output_dir=runs/cuda || status=$?
    ((status == 2)) || { echo "device.backend=cuda ended with $status" && exit 1; }
    inside dpkg -P kto-cuda
fi
inside dpkg -P kto
left=$(inside find / -xdev -path /packages -prune -o -path /home -prune -o -path /proc -prune -o -path /sys -prune -o -name '*kto*' -print | grep -v '^+' || true)
[[ ! $left ]] || { echo "left behind: $left" && exit 1; }
echo "chroot: all is well"
