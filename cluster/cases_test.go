//go:build !integration

package cluster

// caseStep: of the queries that are compared, one in so many.
const caseStep = 11
