"""Sentences and records with room for names, from which `train_names.py` makes training texts."""

from __future__ import annotations

PROSE = r"""
My name is {full} and I live in {city}.
Hi, this is {full} from {org}. Could you call me back?
{full} lives at {street}, {city}, {country}.
Please send the package to {full}, {street}, {city}.
Dear {title} {last}, thank you for your letter.
Dear {first}, I hope you are well.
I spoke to {first} yesterday and {first2} agreed.
{first} and {first2} went to {city} last summer.
Our CEO {full} announced that {org} will open an office in {city}.
Meet me at {org} in {city} at 5pm. Best, {first}
{full} was born in {city}, {country} on 3 March 1971.
The patient, {full}, was admitted to the hospital in {city}.
What is the balance of {full}'s account?
{title} {full} has worked for {org} since 2011.
I'm {first}, can you change my address to {street}, {city}?
Contact {full} at +1 202 555 0143 for details.
Thanks,\n{full}\n{org}
Kind regards,\n{first} {last}\n{street}\n{city}, {country}
Sincerely, {full}
How do I get from {city} to {city2}?
We are travelling to {country} next week with {first}.
{first} said that the report from {org} was late.
Who is {full}?
Tell {first} {last} that the meeting with {org} is moved.
{last} told reporters in {city} that nothing was decided.
According to {full}, the firm {org} lost money in {country}.
Could {first} or {first2} from the {city} office help?
My card was stolen in {city}. My name is {full}.
{full} ({org}) and {full2} ({org2}) signed the contract.
I work at {org} and my manager is {full}.
{org} is based in {city}.
She moved from {city} to {country} to study.
In {city}, {full} met {title} {last2}.
The novel by {full} was published by {org} in 1998.
{full} played for {org} before joining {org2}.
{full} (born 12 May 1950) is a politician from {country}.
{first} {initial}. {last} was an actor and director.
{city} is a town in {country}.
The river flows through {city} and {city2}.
He studied at the University of {city}.
Ich heiße {full} und wohne in {city}.
Herr {last} hat gestern bei {org} angerufen.
Frau {full} aus {city} möchte ihre Adresse ändern: {street}.
Sehr geehrte Frau {last}, vielen Dank für Ihre Nachricht.
Mit freundlichen Grüßen\n{full}
{full} wurde in {city} geboren und arbeitete bei {org}.
Je m'appelle {full} et j'habite à {city}.
Bonjour, je suis {first} {last} de {city}.
M. {last} travaille chez {org}.
Me llamo {full} y vivo en {city}, {country}.
Mi nombre es {full}, trabajo en {org}.
El señor {last} viajó a {city}.
Mi chiamo {full} e abito a {city}.
O meu nome é {full} e moro em {city}.
Ik heet {full} en woon in {city}.
my name is {full_l} and i am from {city}
hi i'm {first_l}, i need help with my order
The driver was identified as {full}, 34, of {city}.
Police in {city} arrested {full} on Tuesday.
{title} {last} and {title} {last2} will represent {org}.
Is {first} there? It's {first2} calling.
@{first}{last} thanks for the follow!
RT: {full} wins in {city}!
{full}'s brother {first2} died in {city}.
Assign the ticket to {full} and cc {full2}.
Ask {first} about the invoice for {org}.
Please update the record of {last}, {first}.
{full} (17 April 1889 – 2 June 1956) was a composer and conductor born in {city}, {country}.
{full} is an American lawyer who served as governor from 1987 to 1991.
The film stars {full}, {full2} and {first2} {last2}.
It was directed by {full} and written by {full2}.
In 1922 {last} married {full2}, the daughter of a merchant from {city}.
{last} was replaced by {full2} as coach of {org}.
The album was recorded in {city} by {full} with {last2} on drums.
{last}'s second book was praised by critics such as {full2}.
He defeated {full} in the final in {city}.
The village lies north of {city}, near the border with {country}.
{country} and {country2} signed a treaty in {city} in 1878.
{city} has a population of 12,400 and belongs to {country}.
The painter {full} taught at the academy in {city}, where {full2} was among his pupils.
Under {last} the army advanced from {city} towards {city2}.
The theorem was first proved by {last} and {last2} in 1936.
The club was founded in 1904 by {full} and merged with {org}.
{org} was acquired by {org2} for 3 million dollars.
{full}, chairman of {org}, resigned after {full2} had taken over.
Members of the band are {first} {last} (vocals), {full2} (guitar) and {first2} {last2} (bass).
The award went to {full} of {org}.
A statue of {full} stands in {city}.
{title} {last} said: "{first2} will not be coming to {city}."
The secretary of state, {full}, visited {country} and {country2}.
Here is my address: {street}, {city}. The billing contact is {full}.
I would like to book a flight from {city} to {city2} for {full} and {full2}.
{first} asked whether {org} ships to {country}.
We hired {full} as an accountant in our {city} branch.
Send an email to {full} about the delay.
{full} just joined our team from {org}. Welcome, {first}!
Can you look up the order of {title} {last} from {city}?
Unfortunately {full} could not attend; {full2} took the minutes.
The witness, {title} {full}, said she had seen {last2} in {city}.
Happy birthday {first}!
Greetings from {city}, {first}
Hello {first}, this is your reminder for the appointment with {title} {last2}.
I am {first}'s mother. {first} goes to school in {city}.
""".strip().split("\n")

RECORDS = r"""
{{"name": "{full}", "email": "a@b.example", "city": "{city}"}}
{{"firstName": "{first}", "lastName": "{last}", "age": 41}}
{{"first_name": "{first}", "last_name": "{last}", "address": {{"street": "{street}", "city": "{city}", "country": "{country}"}}}}
{{"user": {{"fullName": "{full}", "company": "{org}"}}, "active": true}}
{{"customer": "{full}", "order": 4411, "status": "shipped"}}
{{"author": "{full}", "title": "Annual Report", "publisher": "{org}"}}
{{"id": 17, "assignee": "{first} {last}", "reporter": "{first2} {last2}", "priority": "High"}}
{{"patient": {{"given": "{first}", "family": "{last}"}}, "ward": "B2"}}
{{"from": "{full}", "to": "{full2}", "text": "See you on Monday"}}
{{"contact_person": "{full}", "phone": "+49 30 901820"}}
name,email,city\n{full},x@y.example,{city}\n{full2},z@y.example,{city2}
id;first_name;last_name;country\n1;{first};{last};{country}\n2;{first2};{last2};{country2}
First Name,Last Name,Company\n{first},{last},{org}
order_id,customer,total\n8812,{full},12.50\n8813,{full2},99.00
1,{full},{city},active\n2,{full2},{city2},inactive
{last},{first},1971-03-02,{city}
Name: {full}\nCity: {city}\nCountry: {country}
Patient: {full}\nDOB: 1971-03-02\nPhysician: {title} {last2}
Full name: {full}\nEmployer: {org}\nAddress: {street}, {city}
Customer: {full}\nStatus: Active\nPlan: Gold
From: {full} <a@b.example>\nTo: {full2} <c@d.example>\nSubject: Quarterly Report\n\nHi {first2},\n\nplease find it attached.\n\nBest,\n{first}
From: {full} <x@y.example>\nSubject: Re: Meeting\n\nDear {title} {last2},\nThank you.\nRegards,\n{full}
Cc: {full}, {full2}
On Tue, Mar 3, 2024 at 10:22, {full} <a@b.example> wrote:
2024-03-02 10:22:11 INFO  [auth] user="{full}" login ok ip=10.1.2.3
2024-03-02T10:22:11Z WARN Payment failed for customer {full} (order 8812)
10:22:11 ERROR OrderService - could not notify {full} at {org}
INFO user_name={first} {last} action=login result=success
2024-03-02 10:22:11,120 DEBUG mailer: sending invoice to {full} <x@y.example>
[2024-03-02] agent {full} closed case 4411
Mar  2 10:22:11 host sshd[123]: Accepted password for {first_l} from 10.0.0.1
level=info msg="profile updated" name="{full}" city="{city}"
# Author: {full}\ndef load(path):\n    return open(path).read()
// Copyright (c) 2021 {full}. All rights reserved.\nclass UserService {{}}
/* maintained by {full} ({org}) */
const user = {{ name: "{full}", role: "Admin" }};
user = User(first="{first}", last="{last}")
assert greet("{first}") == "Hello {first}"
INSERT INTO users (name, city) VALUES ('{full}', '{city}');
SELECT * FROM customers WHERE last_name = '{last}';
<user><name>{full}</name><company>{org}</company></user>
<p>Written by <b>{full}</b>, {city}</p>
| {full} | {org} | {city} |
- {full}, {org}\n- {full2}, {org2}
name = "{full}"\nlocation = "{city}"
owner: {full}\nteam: Platform
cardholder: {full_u}\nexpires: 09/27
PASSENGER: {last_u}/{first_u} MR\nFROM: {city_u}
Ticket #4411 assigned to {full}\nReporter: {full2}
Sender: {full}\nRecipient: {full2}\nAmount: 210.00 EUR
Kunde: {full}\nOrt: {city}\nFirma: {org}
Vorname: {first}\nNachname: {last}\nStraße: {street}\nOrt: {city}
Nom: {full}\nVille: {city}
Nombre: {full}\nCiudad: {city}\nPaís: {country}
git log: {first} {last} <dev@corp.example> Fix Parser
Signed-off-by: {full} <dev@corp.example>
attendees: [{full}, {full2}]
user_id=4411 display_name="{full}" org="{org}" tz=Europe/Berlin
""".strip().split("\n")

PLAIN = r"""
The Quick Start Guide explains how to install the Server.
Error: Connection Refused while reading Response Header
SELECT * FROM Orders WHERE Status = 'Open';
public class OrderService extends BaseService { private final Logger logger; }
INFO  StartupManager - Application started in 3.2 seconds
Please reset my password. I can't log in to the app.
What is the capital of the country with the most lakes?
How do I write a for loop in Python and in JavaScript?
{"status": "Active", "type": "Premium", "color": "Dark Blue"}
{"title": "Hello World", "name": "Main Menu", "items": ["File", "Edit", "View"]}
name: build\non: push\njobs:\n  test:\n    runs-on: Linux
Step 1: Open Settings. Step 2: Click Save. Step 3: Restart.
Happy New Year! See you on Monday.
Version 1.2.3 was released on Friday, March 3.
The Annual General Meeting will be held in the Main Hall.
Subject: Weekly Status Report\n\nHi all,\n\nthe Build is green.\n\nThanks
Dear Sir or Madam, I would like to cancel my subscription.
Dear Customer, your Order has been shipped.
Hi there, could you help me with Excel?
Name,Quantity,Price\nGreen Apple,3,1.20\nRed Wine,1,9.90
Product: Steel Bolt\nColor: Black\nSize: Large
Das ist ein Test. Der Hund lief durch den Wald und die Katze schlief.
Bitte schicken Sie mir die Rechnung für den Monat Mai.
TODO: Refactor the Parser and add Unit Tests
def get_user_name(self): return self.name
import React, { useState } from "react";
Translate the following Sentence into French and German.
Write a short story about a Dragon and a Knight.
Terms and Conditions apply. See Section 4 of the Agreement.
GET /api/v1/Users HTTP/1.1\nHost: localhost\nAccept: application/json
Breaking News: Stocks fall as Oil Prices rise
I love Pizza, Pasta and Ice Cream!
The Federal Tax Form must be sent by April.
Yes, please. No, thank you. Okay, Great!
Order 8812 was shipped with tracking number 1Z999AA10123456784.
Will you mark this as read in May? Grace periods end in June.
May I ask what the Mark Down button does?
Act as a Linux Terminal. Respond only with the Output.
Summarize the Article in three Bullet Points.
Can you recommend a good Book about History?
{"id": 4411, "name": "Annual Plan", "price": 99.0, "currency": "EUR"}
{"event": "Page View", "browser": "Firefox", "device": "Mobile"}
name: Deploy Docs\nversion: 2\nowner: Platform Team
User: guest\nRole: Viewer\nStatus: Suspended
From: Support <help@corp.example>\nTo: Sales Team <s@corp.example>\nSubject: Ticket Closed
2024-03-02 10:22:11 INFO  [Scheduler] Job Cleanup finished in 12 ms
2024-03-02 10:22:11 ERROR [HttpServer] Unexpected End Of Stream
customer=unknown action=login result=Failure reason="Bad Password"
product,category,price\nDesk Lamp,Home Office,29.90\nOffice Chair,Furniture,119.00
Author: unknown\nTitle: Getting Started
""".strip().split("\n")
