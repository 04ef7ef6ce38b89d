/**
 * Two small CRDs that use every part of a structural schema that the API server must understand.
 */
import type { CustomResourceDefinition, JsonSchema } from '../../controller/standalone/schema/index.ts';

const spec: JsonSchema = {
  type: 'object',
  required: ['replicas'],
  properties: {
    replicas: { type: 'integer', format: 'int32', minimum: 1, maximum: 100 },
    minReplicas: { type: 'integer', format: 'int32', minimum: 1 },
    mode: { type: 'string', enum: ['Fast', 'Slow'], default: 'Slow' },
    digest: { type: 'string', pattern: '^[0-9a-f]{8}$', maxLength: 8 },
    title: { type: 'string', minLength: 2, maxLength: 10 },
    tags: { type: 'array', maxItems: 3, items: { type: 'string', maxLength: 10 }, 'x-kubernetes-list-type': 'set' },
    ports: {
      type: 'array',
      maxItems: 5,
      'x-kubernetes-list-type': 'map',
      'x-kubernetes-list-map-keys': ['name'],
      items: {
        type: 'object',
        required: ['name'],
        properties: {
          name: { type: 'string', maxLength: 10 },
          number: { 'x-kubernetes-int-or-string': true },
          protocol: { type: 'string', default: 'TCP' },
        },
      },
    },
    options: { type: 'object', maxProperties: 3, additionalProperties: { type: 'string', maxLength: 10 } },
    free: { type: 'object', 'x-kubernetes-preserve-unknown-fields': true },
    note: { type: 'string', nullable: true, maxLength: 20 },
    fixed: {
      type: 'string',
      maxLength: 20,
      'x-kubernetes-validations': [{ rule: 'self == oldSelf', message: 'fixed cannot be changed' }],
    },
    timeout: {
      type: 'string',
      maxLength: 20,
      'x-kubernetes-validations': [
        { rule: "duration(self) >= duration('1m')", messageExpression: "'timeout must be at least 1m, not ' + self" },
      ],
    },
    when: { type: 'string', format: 'date-time', maxLength: 40 },
  },
  'x-kubernetes-validations': [
    {
      rule: '!has(self.minReplicas) || self.minReplicas <= self.replicas',
      message: 'minReplicas must not be greater than replicas',
      fieldPath: '.minReplicas',
    },
  ],
};

const status: JsonSchema = {
  type: 'object',
  properties: {
    replicas: { type: 'integer', format: 'int32', minimum: 0 },
    selector: { type: 'string', maxLength: 50 },
    phase: { type: 'string', maxLength: 20 },
    since: { type: 'string', format: 'date-time' },
    conditions: {
      type: 'array',
      'x-kubernetes-list-type': 'map',
      'x-kubernetes-list-map-keys': ['type'],
      items: {
        type: 'object',
        required: ['type', 'status'],
        properties: {
          type: { type: 'string' },
          status: { type: 'string', enum: ['True', 'False', 'Unknown'] },
          reason: { type: 'string' },
          message: { type: 'string' },
          lastTransitionTime: { type: 'string', format: 'date-time' },
          observedGeneration: { type: 'integer', format: 'int64' },
        },
      },
    },
  },
};

export const widgetCrd: CustomResourceDefinition = {
  apiVersion: 'apiextensions.k8s.io/v1',
  kind: 'CustomResourceDefinition',
  metadata: { name: 'widgets.test.bitvisor.io' },
  spec: {
    group: 'test.bitvisor.io',
    scope: 'Namespaced',
    names: { kind: 'Widget', listKind: 'WidgetList', plural: 'widgets', singular: 'widget', shortNames: ['wd'] },
    versions: [
      {
        name: 'v1',
        served: true,
        storage: true,
        subresources: {
          status: {},
          scale: {
            specReplicasPath: '.spec.replicas',
            statusReplicasPath: '.status.replicas',
            labelSelectorPath: '.status.selector',
          },
        },
        additionalPrinterColumns: [
          { name: 'Desired', type: 'integer', jsonPath: '.spec.replicas' },
          { name: 'Ready', type: 'string', jsonPath: '.status.conditions[?(@.type=="Ready")].status' },
          { name: 'Since', type: 'date', jsonPath: '.status.since', priority: 1 },
          { name: 'Age', type: 'date', jsonPath: '.metadata.creationTimestamp' },
        ],
        schema: {
          openAPIV3Schema: {
            description: 'A thing for tests.',
            type: 'object',
            required: ['spec'],
            properties: {
              apiVersion: { type: 'string' },
              kind: { type: 'string' },
              metadata: { type: 'object' },
              spec,
              status,
            },
          },
        },
      },
    ],
  },
};

/** Cluster-scoped, without subresources, with a field that may be selected by. */
export const gadgetCrd: CustomResourceDefinition = {
  apiVersion: 'apiextensions.k8s.io/v1',
  kind: 'CustomResourceDefinition',
  metadata: { name: 'gadgets.test.bitvisor.io' },
  spec: {
    group: 'test.bitvisor.io',
    scope: 'Cluster',
    names: { kind: 'Gadget', plural: 'gadgets', listKind: 'GadgetList', singular: 'gadget' },
    versions: [
      {
        name: 'v1',
        served: true,
        storage: true,
        selectableFields: [{ jsonPath: '.spec.color' }],
        schema: {
          openAPIV3Schema: {
            type: 'object',
            properties: {
              spec: { type: 'object', properties: { color: { type: 'string', maxLength: 10 } } },
              status: { type: 'object', properties: { note: { type: 'string', maxLength: 10 } } },
            },
          },
        },
      },
    ],
  },
};
