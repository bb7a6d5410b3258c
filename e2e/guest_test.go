package e2e_test

import (
	"fmt"
	"strings"
	"testing"

	"github.com/nineply/nineply/e2e/harness"
	"github.com/nineply/nineply/vm/vmtest"
)

// mount9p mounts attach name $1 on directory $2 in a guest.
const mount9p = `m() {
	mkdir -p $2
	mount -t 9p -o trans=tcp,port=5640,version=9p2000.L,cache=loose,access=any,msize=262168,ro,aname=$1 $NINEPLY_HOST $2
}
fail() { echo "FAILED: $*"; exit 1; }
is() { [ "$1" = "$2" ] || fail "$3: got '$1', want '$2'"; }
mkdir -p /run/w && mount -t tmpfs tmpfs /run/w && mkdir -p /run/w/u /run/w/k /run/w/u2 /run/w/k2 /run/w/root /run/w/root2
`

// oneLower makes an overlay on the merged tree, as a container has it.
const oneLower = `m image/%s /run/w/image
mount -t overlay -o lowerdir=/run/w/image,upperdir=/run/w/u,workdir=/run/w/k overlay /run/w/root
check /run/w/root /run/w/u
`

// severalLowers makes an overlay on one mount for each layer.
const severalLowers = `n=0 lower=
for d in %s; do
	n=$((n+1))
	m layer/$d /run/w/l$n
	lower=/run/w/l$n${lower:+:$lower}
done
mount -t overlay -o lowerdir=$lower,upperdir=/run/w/u2,workdir=/run/w/k2 overlay /run/w/root2
check /run/w/root2 /run/w/u2
`

// checks is what must work on either: copy-up of content and of metadata,
// programs with special rights, python in a chroot.
const checks = `check() {
	r=$1 u=$2
	is "$(cat $r/srv/lower/kept)" kept "a file of the lowest layer"
	for gone in removed removed-dir opaque/hidden opaque/both/hidden; do
		[ ! -e $r/srv/lower/$gone ] || fail "$gone is visible again"
	done
	is "$(ls $r/srv/lower/opaque | tr '\n' ' ')" "both new " "an opaque directory"
	is "$(ls $r/srv/lower/merged | tr '\n' ' ')" "from-lower from-upper " "a directory of two layers"
	echo more >> $r/srv/lower/replaced
	is "$(tail -n 1 $r/srv/lower/replaced)" more "append to a file of a layer"
	is "$(head -n 1 $r/srv/lower/replaced)" "new and longer" "what was there before"
	[ -f $u/srv/lower/replaced ] || fail "no copy in the upper directory"
	chmod 600 $r/srv/lower/kept
	is "$(stat -c %%a $r/srv/lower/kept)" 600 "chmod of a file of a layer"
	echo x >> $r/app/inodes/xattrs || fail "append to a file with extended attributes"
	mv $r/srv/lower/back $r/srv/lower/moved
	[ ! -e $r/srv/lower/back ] || fail "a moved file is still there"
	rm $r/app/hello.py.none 2>/dev/null && fail "removed what is not there"
	mkdir $r/srv/new && echo y > $r/srv/new/file
	setuid=$(chroot $r setpriv --reuid=1000 --regid=1000 --clear-groups /app/bin/id-setuid)
	case "$setuid" in *"euid=0("*) ;; *) fail "setuid program: $setuid" ;; esac
	chmod 755 $r/app
	if chroot $r setpriv --reuid=1000 --regid=1000 --clear-groups /bin/cat /app/secret 2>/dev/null; then fail "anybody reads the secret"; fi
	secret=$(chroot $r setpriv --reuid=1000 --regid=1000 --clear-groups /app/bin/cat-capable /app/secret)
	is "$secret" "only with the capability" "program with a file capability"
	line=$(chroot $r python3 /app/hello.py)
	case "$line" in "hello from python 3"*) echo "$line" ;; *) fail "python: $line" ;; esac
}
`

// TestGuests: the 9P clients of two other kernels carry an overlay on one tree
// and on a tree for each layer, and run what a container would run.
func TestGuests(t *testing.T) {
	start(t)
	site := newSite(t, debian(t), harness.Shape{})
	daemon := site.daemon(t, "")
	script := fmt.Sprintf(mount9p+checks+oneLower+severalLowers, site.ref("lazy"), strings.Join(site.layerDigests(t, "lazy"), " "))
	daemon.CLI(t, "ls", site.ref("lazy")) // layers are attached by digest once they are known
	for name, run := range map[string]runner{"uml": vmtest.RunUML, "qemu": vmtest.RunQEMU} {
		t.Run(name, func(t *testing.T) {
			result := inGuest(t, run, daemon, script, nil)
			if n := strings.Count(string(result.Output), greeting); n != 2 {
				t.Errorf("python ran %d times:\n%s", n, result.Output)
			}
		})
	}
}
