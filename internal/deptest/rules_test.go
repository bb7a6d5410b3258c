package deptest

// anything allows every package of this module.
var anything = []string{"*"}

// allowed lists, for each package of the module, which other packages of it
// may be imported outside tests. A name ending in /... stands for everything
// below. Packages that only tests may import are in testOnly.
var allowed = map[string][]string{
	"cmd/nineply":          {"internal/cli"},
	"cmd/nineply-mount":    {"internal/cli", "internal/mount", "internal/keeper"},
	"cmd/nineply-verifier": {"internal/verifier"},
	"internal/verifier":    {"internal/control", "internal/fserr"},

	"estargz":                    {"internal/inflate", "internal/fserr"},
	"layerindex":                 {"estargz", "internal/crc32c", "internal/fserr"},
	"chunkstore":                 {"internal/crc32c", "internal/fserr"},
	"p9server":                   {"layerindex", "internal/fserr"},
	"p9server/p9test":            {"p9server", "layerindex", "internal/fserr"},
	"snapshotter":                {"internal/control", "internal/idmap", "internal/fserr"},
	"snapshotter/contracttest":   {"snapshotter"},
	"internal/fserr":             {},
	"internal/inflate":           {"internal/fserr"},
	"internal/config":            {},
	"internal/idmap":             {},
	"internal/crc32c":            {},
	"internal/control":           {"internal/fserr"},
	"internal/histogram":         {},
	"internal/metrics":           {},
	"internal/zran":              {"internal/inflate", "internal/fserr"},
	"internal/layertar":          {"internal/inflate", "internal/fserr"},
	"internal/soci":              {"estargz", "internal/fserr"},
	"internal/profile":           {"estargz", "internal/fserr"},
	"internal/source":            {"internal/fserr"},
	"internal/source/...":        {"internal/source", "internal/source/...", "internal/fserr"},
	"internal/fetch":             {"internal/source", "internal/histogram", "estargz", "chunkstore", "internal/fserr"},
	"internal/image":             {"internal/fetch", "internal/histogram", "internal/inflate", "internal/profile", "internal/soci", "internal/source", "internal/layertar", "internal/zran", "layerindex", "chunkstore", "estargz", "internal/fserr"},
	"internal/convert":           {"estargz", "internal/source", "internal/layertar", "internal/fserr"},
	"internal/optimize":          {"internal/config", "internal/control", "internal/convert", "internal/daemon", "internal/mount", "internal/p9client", "internal/profile", "internal/source", "estargz", "internal/fserr"},
	"internal/p9client":          {"internal/fserr"},
	"internal/hostlink":          {"internal/fserr"},
	"internal/mount":             {"internal/hostlink", "internal/idmap", "internal/p9client", "layerindex", "internal/fserr"},
	"internal/keeper":            {"p9server", "internal/hostlink", "internal/mount", "internal/p9client", "internal/control", "internal/fserr"},
	"internal/layerstore":        {"estargz", "internal/control", "internal/fserr"},
	"internal/doctor":            {"internal/config", "internal/control"},
	"internal/coldstart":         {"internal/control", "internal/fserr"},
	"internal/demo":              {"internal/coldstart", "internal/config", "internal/convert", "internal/daemon", "internal/demoimage", "internal/testbed"},
	"internal/testbed":           {},
	"internal/demoimage":         {"internal/demoimage/treesum"},
	"internal/demoimage/...":     {},
	"internal/cli":               anything,
	"internal/cli/...":           anything,
	"internal/daemon":            anything,
	"internal/deptest":           {},
	"vm":                         {"vm/internal/bootspec", "internal/fserr"},
	"vm/guestinit":               {"vm/internal/bootspec"},
	"vm/internal/...":            {},
	"vm/vmtest":                  {"vm"},
	"bench/convert":              {},
	"bench/convert/write":        {"estargz"},
	"bench/record":               {},
	"bench/tables":               {},
	"bench/generated":            {"estargz", "internal/p9client", "internal/source"},
	"bench/read":                 {"bench/generated", "chunkstore", "estargz", "internal/fetch", "internal/image", "internal/source/layout"},
	"bench/share":                {"bench/generated", "estargz", "internal/control", "internal/p9client", "internal/source/registry", "internal/testbed"},
	"bench/memory":               {"bench/generated", "estargz", "internal/control", "internal/p9client", "internal/source/registry", "internal/testbed"},
	"bench/throughput":           {"chunkstore", "estargz", "layerindex", "internal/fetch", "internal/source", "internal/source/registry", "internal/testbed"},
	"bench/ninep":                {"bench/generated", "chunkstore", "estargz", "layerindex", "internal/fetch", "internal/image", "internal/source/layout", "p9server"},
	"bench/coldstart":            {"internal/coldstart", "internal/config", "internal/control", "internal/convert", "internal/daemon", "internal/demoimage", "internal/fserr", "internal/netshape", "internal/profile", "internal/source", "internal/testbed", "estargz"},
	"bench/fuse":                 {"bench/generated", "internal/control", "internal/keeper", "internal/source/registry", "internal/testbed", "estargz"},
	"bench/guest":                {"bench/generated", "estargz", "internal/source/registry", "internal/testbed", "vm"},
	"bench/guest/inside":         {},
	"e2e":                        anything,
	"e2e/...":                    anything,
	"internal/testreg":           {},
	"internal/netshape":          {},
	"internal/faultfs":           {"chunkstore", "layerindex", "internal/fserr"},
	"internal/p9client/p9fake":   {"internal/fserr"},
	"internal/source/sourcetest": {"internal/source", "internal/fserr"},
}

// testOnly are packages that nothing but tests and these packages import.
var testOnly = []string{
	"e2e", "e2e/...", "internal/deptest", "internal/faultfs", "internal/p9client/p9fake", "internal/source/sourcetest",
	"internal/testreg", "p9server/p9test", "snapshotter/contracttest", "vm/vmtest",
}

const module = "github.com/nineply/nineply/"

// unreachable lists, for packages, what they must not reach on any path of
// imports: a name, or everything below a name ending in /.... It keeps the
// core usable, and testable, without what surrounds it.
var unreachable = map[string][]string{
	"estargz":     append([]string{"net", "net/http", module + "chunkstore"}, foreign...),
	"layerindex":  append([]string{"net", "net/http", module + "chunkstore"}, foreign...),
	"chunkstore":  {"github.com/containerd/...", "oras.land/...", "github.com/hugelgupf/...", module + "estargz", module + "layerindex"},
	"p9server":    append([]string{module + "chunkstore", module + "internal/image"}, foreign...),
	"snapshotter": {"github.com/dgraph-io/...", "github.com/hugelgupf/...", module + "estargz", module + "p9server", module + "layerindex"},
	// The mount helper goes into guests: small, static, no daemon inside.
	"internal/mount":    append([]string{module + "internal/image", module + "chunkstore"}, foreign...),
	"internal/p9client": append([]string{"net/http", module + "p9server"}, foreign...),
}

// foreign are the big dependencies that only their own corner knows.
var foreign = []string{"github.com/dgraph-io/...", "github.com/containerd/...", "oras.land/...", "github.com/hugelgupf/..."}

// soleImporters are modules with exactly one package that may import them,
// tests aside.
var soleImporters = map[string][]string{
	"github.com/dgraph-io/badger/": {"chunkstore"},
	"github.com/hanwen/go-fuse/":   {"internal/mount", "internal/layerstore"},
	"github.com/spf13/cobra":       {"internal/cli", "internal/cli/..."},
	// A containerd is a host of the snapshotter, and one more place for images.
	"github.com/containerd/containerd/": {"snapshotter", "snapshotter/...", "internal/coldstart", "internal/optimize", "internal/source/containerdstore"},
}

// vagueNames say nothing about what is inside.
var vagueNames = []string{"util", "utils", "common", "helper", "helpers", "manager", "misc", "base", "shared", "pkg", "lib"}

// maxLines is the longest a source file may be.
const maxLines = 500
