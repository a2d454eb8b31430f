//go:build integration

package cluster

// caseStep: all queries are compared.
const caseStep = 1
