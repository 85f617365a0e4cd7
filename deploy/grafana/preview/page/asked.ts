// What the page is given: a dashboard as Grafana has it, and what Prometheus answered to each of its queries.

import { FieldConfigSource, DataTransformerConfig } from '@grafana/data';

export interface Series {
  metric: Record<string, string>;
  values?: Array<[number, string]>; // over the time range
  value?: [number, string]; // at its end
}

export interface Exemplar {
  timestamp: number;
  value: string;
}

export interface Answer {
  refId: string;
  legend: string;
  table: boolean;
  step: number; // seconds
  series: Series[];
  exemplars: Exemplar[];
}

export interface Panel {
  id: number;
  type: string;
  title: string;
  description?: string;
  transparent?: boolean;
  gridPos: { x: number; y: number; w: number; h: number };
  fieldConfig?: FieldConfigSource;
  options?: Record<string, unknown>;
  transformations?: DataTransformerConfig[];
  answers: Answer[];
}

export interface Variable {
  label: string;
  value: string;
}

export interface Dashboard {
  title: string;
  from: number; // seconds since the epoch
  to: number;
  variables: Variable[];
  links: string[];
  panels: Panel[];
}
