/**
 * Schemas of Event (core/v1) and Lease (coordination.k8s.io/v1).
 */
import type { JsonSchema } from './schema/types.ts';

const text = (description: string): JsonSchema => ({ type: 'string', description });
const time = (description: string): JsonSchema => ({
  type: 'string',
  format: 'date-time',
  nullable: true,
  description,
});
const int32 = (description: string): JsonSchema => ({ type: 'integer', format: 'int32', nullable: true, description });

const objectReference = (description: string): JsonSchema => ({
  type: 'object',
  description,
  nullable: true,
  properties: {
    apiVersion: text('API version of the object.'),
    kind: text('Kind of the object.'),
    namespace: text('Namespace of the object.'),
    name: text('Name of the object.'),
    uid: text('UID of the object.'),
    resourceVersion: text('Version of the object that was seen.'),
    fieldPath: text('The part of the object that is meant.'),
  },
});

export const eventSchema: JsonSchema = {
  description: 'Something that happened to an object.',
  type: 'object',
  required: ['involvedObject'],
  properties: {
    involvedObject: objectReference('The object that this is about.'),
    related: objectReference('A second object that had a part in it.'),
    reason: text('Short machine-readable word for why.'),
    message: text('What happened, for people.'),
    type: text('Normal or Warning.'),
    action: text('What was done or failed.'),
    count: int32('How often it happened.'),
    firstTimestamp: time('When it first happened.'),
    lastTimestamp: time('When it last happened.'),
    eventTime: time('When it was first observed.'),
    reportingComponent: text('Who reported it.'),
    reportingInstance: text('Which instance of the reporter.'),
    source: {
      type: 'object',
      description: 'Who reported it, in the older form.',
      properties: { component: text('The component.'), host: text('Where it ran.') },
    },
    series: {
      type: 'object',
      nullable: true,
      description: 'How an event goes on.',
      properties: { count: int32('How often so far.'), lastObservedTime: time('When it was last seen.') },
    },
  },
};

export const leaseSchema: JsonSchema = {
  description: 'A claim on leadership that must be renewed.',
  type: 'object',
  properties: {
    spec: {
      type: 'object',
      description: 'The claim.',
      properties: {
        holderIdentity: { type: 'string', nullable: true, description: 'Who holds it.' },
        leaseDurationSeconds: { ...int32('Seconds after the last renewal until others may take it.'), minimum: 1 },
        acquireTime: time('When the holder took it.'),
        renewTime: time('When the holder last renewed it.'),
        leaseTransitions: { ...int32('How often the holder changed.'), minimum: 0 },
        strategy: { type: 'string', nullable: true, description: 'How the holder is chosen.' },
        preferredHolder: { type: 'string', nullable: true, description: 'Who should hold it.' },
      },
    },
  },
};
