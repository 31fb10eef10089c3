// Package monitoring pins the module of the Prometheus operator, whose custom resource definitions
// the tests install. It builds nothing.
package monitoring
