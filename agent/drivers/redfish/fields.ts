/** Reads fields of what a BMC answers: whatever has not the expected type or size is absent. */

export type Resource = Readonly<Record<string, unknown>>;

const longestText = 256;
const mostMembers = 256;

export function textOf(value: unknown): string | undefined {
  return typeof value === 'string' && value.length > 0 && value.length <= longestText ? value : undefined;
}

export function numberOf(value: unknown): number | undefined {
  return typeof value === 'number' && Number.isFinite(value) && value >= 0 ? value : undefined;
}

export function objectOf(value: unknown): Resource | undefined {
  return typeof value === 'object' && value !== null && !Array.isArray(value) ? (value as Resource) : undefined;
}

export function listOf(value: unknown): readonly unknown[] {
  return Array.isArray(value) ? value.slice(0, mostMembers) : [];
}

export function objectsOf(value: unknown): Resource[] {
  return listOf(value)
    .map(objectOf)
    .filter((one): one is Resource => one !== undefined);
}

export const textsOf = (value: unknown): string[] => listOf(value).flatMap((one) => textOf(one) ?? []);

/** The reference in `{"@odata.id": "..."}`. */
export const referenceOf = (value: unknown): string | undefined => textOf(objectOf(value)?.['@odata.id']);

/** What a BMC says of why it refused, in one line. */
export function complaintOf(body: Resource): string | undefined {
  const error = objectOf(body.error);
  const infos = [...objectsOf(error?.['@Message.ExtendedInfo']), ...objectsOf(body['@Message.ExtendedInfo'])];
  const details = infos.flatMap((info) => textOf(info.Message) ?? textOf(info.MessageId) ?? []);
  const said = details[0] ?? textOf(error?.message);
  return said?.replace(/\s+/g, ' ').slice(0, 200);
}
