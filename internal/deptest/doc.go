// Package deptest holds the rules of how the packages of this module depend on
// each other, as tests: the list of what each package may import, what must
// never be reached even indirectly, and limits of size and naming.
//
// The linter's depguard rules say why a forbidden import is forbidden; here is
// the complete list of what is allowed. A new package needs a line in it.
package deptest
